"""Hostile texts and recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.attacks.hostile.case import WANDA, Case, Make, Sound, alone, cases, contents, places, written
from tests.attacks.values import CANARY, TEXTS, draw, swapped

_RECIPE = "build --recipe stranger.yaml -o out --force --backend onnx"
_PLAIN = {
    "NULs": bytes(10_000), "blanks": b" \n\t" * 1000, "one word": b"cat", "not UTF-8": b"the cat \xff\xfe sat " * 100,
    "UTF-16": "the cat sat ".encode("utf-16") * 100, "one line of 30 MB": b"the cat sat " * 2_500_000,
    "one word of 30 MB": b"c" * 30_000_000, "colours": b"\x1b[31mthe\x1b[0m cat " * 200,
    "marks": "\u202ethe cat ".encode() * 200,
    "half characters": b"\xed\xa0\x80" * 1000, "a mark of order": b"\xef\xbb\xbfthe cat sat " * 100,
    "special tokens": b"<s> <unk> </s> " * 400, "unknown words": b"zebra " * 1000,
    "combining marks": "e\u0301".encode() * 50_000,
}  # fmt: skip
_LINES = {
    "a list a line": b"[1]\n", "no text": b'{"a": "b"}\n', "numbers": b'{"text": 1}\n', "null": b'{"text": null}\n',
    "nested": b'{"text": {"text": "a"}}\n', "chat": b'{"messages": [{"role": "user", "content": "a"}]}\n',
    "half characters": b'{"text": "\\ud800"}\n', "long line": b'{"text": "' + b"cat " * 5_000_000 + b'"}\n',
    "two columns": b'{"a": "cat", "b": "dog"}\n', "not closed": b'{"text": "cat',
    "mixed": b'{"text": "cat"}\n{"other": "dog"}\n',
    "colours as key": b'{"\\u001b[31m": 1}\n',
}  # fmt: skip
_SPECS = (
    "stranger.txt:text", "stranger.jsonl:", "stranger:::::", "stranger.exe", "./stranger", "/stranger.txt", "stranger",
)  # fmt: skip
_FOLDERS = {
    "no file": {}, "two kinds": {"a.txt": b"cat", "b.jsonl": b"{}"},
    "a script of a dataset": {"stranger.py": CANARY.encode()},
    "many files": {f"{i}.txt": b"cat" for i in range(5000)}, "an empty file": {"a.txt": b""},
}  # fmt: skip
_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
_MERGE = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)
_YAML = {
    "aliases": _BOMB, "merges": _MERGE, "an alias of itself": "a: &a [*a]\n", "a mapping of itself": "&a {model: *a}\n",
    "Python": f"model: !!python/object/apply:builtins.exec [\"{CANARY}\"]\n",
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
}  # fmt: skip


def _reads(file: str) -> str:
    return f"learn SOUND/model -o out {WANDA}".replace("--calib SOUND/text.txt", f"--calib {file}")


def _texts() -> Iterator[Case]:
    yield from cases("texts", (_reads("stranger.txt"),), contents("stranger.txt", _PLAIN.items()))
    for suffix in ("jsonl", "json"):
        file, values = f"stranger.{suffix}", (_LINES | TEXTS).items()
        yield from cases("texts", (_reads(file),), contents(file, values, before=f"{suffix} "))
    for suffix in ("txt", "jsonl", "json", "md"):
        file = f"stranger.{suffix}"
        yield from cases("texts", (_reads(file),), places(file, before=f"{suffix} "))
    for name in _SPECS:
        yield Case("texts", f"called {name}", alone("stranger.exe", written(b"cat")), (_reads(name),))
    makes = ((f"folder with {name}", _folder(files)) for name, files in _FOLDERS.items())
    yield from cases("texts", (_reads("stranger"), _reads("stranger::train")), makes)


def _folder(files: dict[str, bytes]) -> Make:
    def make(sound: Sound, folder: Path) -> None:
        (folder / "stranger").mkdir()
        for name, content in files.items():
            (folder / "stranger" / name).write_bytes(content)

    return make


def _recipes(sound: Sound) -> Iterator[Case]:
    kind, file = "recipes", "stranger.yaml"
    whole = yaml.safe_load((sound.root / "out" / "recipe.yaml").read_text()) | {"model": "stranger-model"}

    def command(_number: int, name: str) -> tuple[str, ...]:
        # A whole build takes ten seconds if the change is harmless.
        return (_RECIPE if draw(f"recipes/{name}").random() < 0.2 else f"{_RECIPE} --eval stranger.txt",)

    yield from cases(kind, command, ((name, _beside(value)) for name, value in swapped(whole, 3, "recipe")))
    yield from cases(kind, (_RECIPE,), contents(file, _YAML.items()))
    yield from cases(kind, (_RECIPE,), contents(file, TEXTS.items(), before="it is "))
    yield from cases(kind, (_RECIPE,), places(file))


def yaml_text(value: Any, **options: Any) -> str:
    """Returns a YAML text, also of a number of too many digits."""
    return yaml.safe_dump(value, **options).replace("@digits@", "9" * 5000)


def _beside(value: Any) -> Make:
    """Returns a maker of a recipe next to its model."""

    def make(sound: Sound, folder: Path) -> None:
        sound.copy("model", folder / "stranger-model")
        written(yaml_text(value, allow_unicode=True))(folder / "stranger.yaml")

    return make


def text_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _texts()
    yield from _recipes(sound)
