"""Hostile words: values of options and variables, as a script may pass them on from a stranger."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.hostile.case import BUILD, LEARN, Case, Sound
from tests.attacks.hostile.outs import BENCH, RUN, VERIFY

_WORDS = {
    "empty": "", "blank": " ", "a dash": "-", "two dashes": "--", "negative": "-1", "zero": "0", "nan": "nan",
    "inf": "inf", "huge": "9" * 400,
    "digits": "9" * 5000, "1e308": "1e308", "long": "x" * 100_000, "colours": "\x1b[31mred\x1b[0m", "other digits": "٣",
    "a path up": "../../outside",
    "a device": "/dev/zero", "a regular expression": "re:(a+)+$", "no regular expression": "re:[",
    "a template": "{0.__class__}", "percent": "%s%n",
    "equals": "a=b=c", "commas": ",,,,", "a list": "1,2,3", "a shell": "$(touch canary)", "true": "true", "a half": "0.5",
}  # fmt: skip
# What each command needs besides the option in question, and its options.
_COMMANDS = {
    "learn": (
        f"learn stranger -o out {LEARN}",
        (
            "ratio tile windows length seed device repair-steps batch prior include exclude calib "
            "eval eval-windows eval-length target baselines"
        ),
    ),
    "build": (
        f"build stranger -o out {BUILD}",
        (
            "lowering speedup batch-size prompt-tokens opset fuse target dtype backend min-shapes opt-shapes "
            "max-shapes compatible timing-cache recipe mask logits method"
        ),
    ),
    "plan": (
        "plan stranger --ratio 0.4",
        "ratio speedup target tile lowering fuse batch-size generated-tokens mask",
    ),
    "run": (
        RUN.replace("stranger", "stranger-out"),
        "runner plugin tokenizer new-tokens temperature top-k top-p repetition-penalty seed stop",
    ),
    "bench": (
        BENCH.replace("stranger", "stranger-out"),
        "batch-size prompt-tokens past-tokens iterations warm-up against runner",
    ),
    "verify": (
        VERIFY.replace("stranger", "stranger-out"),
        "only eval eval-windows atol rtol check-error-stat fail-on baselines tasks device",
    ),
}
_WRITES = tuple(f"stranger-out/{name}" for name in ("verify", "bench", "manifest.json", "report.", "."))
_OF_PATHS = {
    "inspect": "inspect {}", "plan": "plan {} --ratio 0.4", "learn": f"learn {{}} -o out {LEARN}",
    "run": "run {} cat", "bench": "bench {}",
    "verify": "verify {}", "export": "export {}", "compare": "compare {}",
    "import-mask": "import-mask {} --model stranger -o masks-out.safetensors",
    "compile": "compile stranger --mask {} -o out", "build": f"build {{}} -o out {BUILD}",
}  # fmt: skip
_PATHS = {
    "empty": "", "root": "/", "here": ".", "above": "..", "a device": "/dev/zero", "no device": "/dev/null",
    "a terminal": "/dev/stdin",
    "long": "x" * 300, "longer": "x/" * 5000, "colours": "\x1b[31mred", "not UTF-8": "\udcff\udcfe",
    "nothing there": "nothing/here",
    "a file as a folder": "stranger/config.json/x", "memory": "/proc/self/mem", "processes": "/proc",
    "a URL": "https://example.com/x.onnx",
}  # fmt: skip
_OUTS = (
    "", "/", ".", "..", "/dev/null", "/dev/zero/out", "stranger", "stranger/config.json", "stranger/..",
    "x" * 300, "\x1b[31mred", "\udcff", "/proc/out", "stranger-link", "a/b/c/d",
)  # fmt: skip
_VARIABLES = {
    "PATCH_COMPILE_LEARN_RATIO": "nan", "PATCH_COMPILE_LEARN_TILE": "0x0", "PATCH_COMPILE_LEARN_STRANGER": "1",
    "PATCH_COMPILE_": "x",
    "PATCH_COMPILE_DEBUG": "stranger", "PATCH_COMPILE_LEARN_INCLUDE": "re:[", "PATCH_COMPILE_LEARN_FORCE": "maybe",
    "COLUMNS": "-7",
    "TERM": "\x1b[31m", "HOME": "/nowhere/at/all", "TMPDIR": "/nowhere/at/all",
    "XDG_CACHE_HOME": "stranger/config.json", "LANG": "C",
    "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "NO_COLOR": "1", "HF_HOME": "/nowhere/at/all",
    "OMP_NUM_THREADS": "-4",
    "PYTHONWARNINGS": "error", "CUDA_VISIBLE_DEVICES": "stranger", "WORLD_SIZE": "stranger", "RANK": "7",
    "LOCAL_RANK": "-1", "CUDA_HOME": "stranger",
    "CXX": "touch canary;", "NVCC": "stranger/config.json", "TRANSFORMERS_CACHE": "/dev/null", "PATH": "",
    "LD_LIBRARY_PATH": "stranger",
}  # fmt: skip


def _folders(sound: Sound, folder: Path) -> None:
    sound.copy("model", folder / "stranger")
    sound.copy("out", folder / "stranger-out")
    (folder / "stranger-link").symlink_to("stranger")


def _case(kind: str, name: str, *commands: str, **settings: object) -> Case:
    return Case(kind, name, _folders, commands, **{"named": ("",), "writes": _WRITES} | settings)


def _options() -> Iterator[Case]:
    """Each word for some options of each command, so that every option gets some of them."""
    number = 0
    for command, (line, options) in _COMMANDS.items():
        for option in sorted(options.split()):
            for place, (name, word) in enumerate(_WORDS.items()):
                number += 1
                if (place + len(option) + number // len(_WORDS)) % 9 == 0:
                    words = f"{line} --{option} {shlex.quote(word)}"
                    yield _case("words", f"{command} --{option} {name}", words)


def word_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _options()
    for command, line in _OF_PATHS.items():
        for name, word in _PATHS.items():
            yield _case("paths", f"{command} {name}", line.format(shlex.quote(word)))
    for out in _OUTS:
        line, writes = f"learn stranger -o {shlex.quote(out)} {LEARN}", (*_WRITES, "a", "\x1b", "\udcff")
        yield _case("paths", f"OUT {out[:20]!r}", line, line + " --force", writes=writes)
    for name, value in _VARIABLES.items():
        for command in (f"learn stranger -o out {LEARN}", "doctor", "inspect stranger"):
            yield _case("environment", f"{name} for {command.split()[0]}", command, env={name: value})
