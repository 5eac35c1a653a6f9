"""Hostile texts and recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.attacks.hostile.case import Case, Sound, draw
from tests.attacks.hostile.mutations import PLACES, TEXTS, swapped
from tests.attacks.hostile.sound import LEARN

__all__ = ["text_cases"]

_WANDA = LEARN.replace("magnitude", "wanda --windows 1 --length 16")
_RECIPE = "build --recipe stranger.yaml -o out --force --backend onnx"
_CANARY = "import os; open(os.environ['HOSTILE_CANARY'], 'w')"


def _reads(file: str) -> tuple[str, ...]:
    return (f"learn SOUND/model -o out {_WANDA}".replace("--calib SOUND/text.txt", f"--calib {file}"),)


def _file(name: str, content: bytes) -> Callable[[Sound, Path], None]:
    return lambda sound, folder: (folder / name).write_bytes(content) and None


def _texts() -> Iterator[Case]:
    plain = {
        "NULs": bytes(10_000), "blanks": b" \n\t" * 1000, "one word": b"cat", "not UTF-8": b"the cat \xff\xfe sat " * 100,
        "UTF-16": "the cat sat ".encode("utf-16") * 100, "one line of 30 MB": b"the cat sat " * 2_500_000,
        "one word of 30 MB": b"c" * 30_000_000, "colours": b"\x1b[31mthe\x1b[0m cat " * 200,
        "marks": "\u202ethe cat ".encode() * 200,
        "half characters": b"\xed\xa0\x80" * 1000, "a mark of order": b"\xef\xbb\xbfthe cat sat " * 100,
        "special tokens": b"<s> <unk> </s> " * 400, "unknown words": b"zebra " * 1000,
        "combining marks": "e\u0301".encode() * 50_000,
    }  # fmt: skip
    for name, content in plain.items():
        yield Case("texts", name, _file("stranger.txt", content), _reads("stranger.txt"))
    lines = {
        "a list a line": b"[1]\n", "no text": b'{"a": "b"}\n', "numbers": b'{"text": 1}\n', "null": b'{"text": null}\n',
        "nested": b'{"text": {"text": "a"}}\n', "chat": b'{"messages": [{"role": "user", "content": "a"}]}\n',
        "half characters": b'{"text": "\\ud800"}\n', "long line": b'{"text": "' + b"cat " * 5_000_000 + b'"}\n',
        "two columns": b'{"a": "cat", "b": "dog"}\n', "not closed": b'{"text": "cat',
        "mixed": b'{"text": "cat"}\n{"other": "dog"}\n',
        "colours as key": b'{"\\u001b[31m": 1}\n',
    }  # fmt: skip
    for suffix in ("jsonl", "json"):
        for name, content in (lines | TEXTS).items():
            yield Case(
                "texts",
                f"{suffix} {name}",
                _file(f"stranger.{suffix}", content),
                _reads(f"stranger.{suffix}"),
            )
    for suffix in ("txt", "jsonl", "json", "md"):
        for name, put in PLACES.items():
            file = f"stranger.{suffix}"
            yield Case(
                "texts",
                f"{suffix} {name}",
                lambda sound, folder, f=file, put=put: put(folder / f),
                _reads(file),
            )
    for name in (
        "stranger.txt:text",
        "stranger.jsonl:",
        "stranger:::::",
        "stranger.exe",
        "./stranger",
        "/stranger.txt",
        "stranger\0"[:8],
    ):
        yield Case("texts", f"called {name}", _file("stranger.exe", b"cat"), _reads(name))


def _folder(files: dict[str, bytes]) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        (folder / "stranger").mkdir()
        for name, content in files.items():
            (folder / "stranger" / name).write_bytes(content)

    return make


def _folders() -> Iterator[Case]:
    for name, files in {
        "no file": {}, "two kinds": {"a.txt": b"cat", "b.jsonl": b"{}"},
        "a script of a dataset": {"stranger.py": _CANARY.encode()},
        "many files": {f"{i}.txt": b"cat" for i in range(5000)}, "an empty file": {"a.txt": b""},
    }.items():  # fmt: skip
        yield Case(
            "texts",
            f"folder with {name}",
            _folder(files),
            (_reads("stranger")[0], _reads("stranger::train")[0]),
        )


def _recipes(sound: Sound) -> Iterator[Case]:
    whole = yaml.safe_load((sound.root / "out" / "recipe.yaml").read_text())
    whole["model"] = "stranger-model"
    for name, changed in swapped(whole, 3, "recipe"):
        whole_build = draw(f"recipes/{name}").random() < 0.2  # it takes ten seconds if the change is harmless
        yield Case(
            "recipes", name, _yaml(changed), (_RECIPE if whole_build else f"{_RECIPE} --eval stranger.txt",)
        )
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )
    merge = "a0: &a0 {x: 1, y: 2}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
    )
    for name, text in {
        "aliases": bomb, "merges": merge, "an alias of itself": "a: &a [*a]\n", "a mapping of itself": "&a {model: *a}\n",
        "Python": f"model: !!python/object/apply:builtins.exec [\"{_CANARY}\"]\n",
        "a new object": "!!python/object/new:subprocess.Popen [[touch, stranger]]\n",
        "a module": "a: !!python/module:stranger\n",
        "a tag": "model: !stranger x\n", "a binary": "model: !!binary c3RyYW5nZXI=\n", "an int as key": "1: 2\n",
        "a null as key": "~: 2\n",
        "a list as key": "? [a]\n: b\n", "a date": "model: 2026-13-45\n", "a day": "model: 2026-11-26\n",
        "a set": "!!set {a, b}\n",
        "two documents": "model: a\n---\nmodel: b\n", "two keys": "model: a\nmodel: b\n", "tabs": "model:\n\ta\n",
        "octal": "seed: 0o17\n",
        "sexagesimal": "seed: 190:20:30\n", "inf": "ratio: .inf\n", "nan": "ratio: .nan\n", "not closed": "a: [1, 2\n",
        "percent": "%YAML 9.9\n---\n",
        "deep": "[" * 5000, "deep flow": "{a: " * 3000, "deep blocks": "".join(" " * i + "a:\n" for i in range(1500)),
        "many keys": "".join(f"k{i}: {i}\n" for i in range(20_000)), "a long number": f"seed: {'9' * 5000}\n",
        "a long text": "model: " + "x" * 10**6,
        "colours": "model: \"\\e[31mred\"\n", "a raw escape": "model: \x1b[31mred\n",
        "an option of the command": "force: true\nresume: true\nout: /etc\n",
        "OUT above": "model: stranger-model\nout: ../..\n",
    }.items():  # fmt: skip
        yield Case("recipes", name, _file("stranger.yaml", text.encode()), (_RECIPE,))
    for name, content in TEXTS.items():
        yield Case("recipes", f"it is {name}", _file("stranger.yaml", content), (_RECIPE,))
    for name, put in PLACES.items():
        yield Case("recipes", name, lambda sound, folder, put=put: put(folder / "stranger.yaml"), (_RECIPE,))


def _yaml(value: Any) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        sound.copy("model", folder / "stranger-model")
        text = yaml.safe_dump(value, allow_unicode=True).replace("@digits@", "9" * 5000)
        (folder / "stranger.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))

    return make


def text_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _texts()
    yield from _folders()
    yield from _recipes(sound)
