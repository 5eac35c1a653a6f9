"""Hostile builds: every file of OUT with a field changed, code planted next to an engine, and unfinished builds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from patch_compile.artifacts import layout
from tests.attacks.hostile.case import (
    BUILD,
    LEARN,
    Case,
    Make,
    Sound,
    cases,
    contents,
    places,
    rewritten,
    written,
)
from tests.attacks.hostile.texts import yaml_text
from tests.attacks.values import PLACES, TEXTS, VALUES, Change, at, draw, swapped

INSPECT = "inspect stranger"
COMPARE = "compare stranger SOUND/out"
RUN = "run stranger 'the cat' --runner onnx --new-tokens 2"
_ENGINE_RUN = "run stranger 'the cat' --new-tokens 2"
_INSPECT_ENGINE = f"inspect stranger/{layout.ENGINE}"
VERIFY = "verify stranger --only pruned --lengths 1,4"
BENCH = "bench stranger --runner onnx --batch-size 1 --prompt-tokens 8 --iterations 1 --warm-up 1 --against none --force"
_AGAIN = f"build --recipe stranger/{layout.RECIPE} -o out --force --eval stranger.txt"
_MAY_CHANGE = (
    layout.VERIFY_FOLDER, layout.BENCH_FOLDER, layout.MANIFEST, "report.", ".", layout.PAGE, layout.CARD,
)  # fmt: skip
WRITES = tuple(f"stranger/{name}" for name in _MAY_CHANGE)
# By file: the commands that read it, how many hostile values each field is given, and how many fields are changed.
_FILES: dict[str, tuple[tuple[str, ...], int, int]] = {
    layout.MANIFEST: ((INSPECT, RUN, COMPARE, BENCH), 2, 80),
    layout.REPORT: ((COMPARE, VERIFY, INSPECT), 1, 120),
    layout.PLAN: ((INSPECT, COMPARE), 1, 50),
    layout.BENCH: ((COMPARE, INSPECT, BENCH), 1, 50),
    layout.VERIFY: ((COMPARE, INSPECT, VERIFY), 1, 60),
    layout.ENGINE_REPORT: ((_ENGINE_RUN, INSPECT, _INSPECT_ENGINE, COMPARE), 3, 80),
}
_OUTSIDE = (
    "../../outside", "/etc/hostname", "", ".", "..", "a\0b", "x" * 5000, "\x1b[31mred", "stranger/../../outside",
    "\ud800",
)  # fmt: skip
_PARTS = (
    f"{layout.MODEL}/config.json", f"{layout.MODEL}/generation_config.json", f"{layout.MODEL}/tokenizer.json",
    f"{layout.MODEL}/model.safetensors", layout.MASKS, layout.ONNX, f"{layout.ONNX}.data",
)  # fmt: skip
_GENERATION = ["eos_token_id", "do_sample", "repetition_penalty", "temperature", "top_k", "top_p"]
_CONFIG = ["max_position_embeddings", "sliding_window", "text_config", "layer_types"]
_PLANTED = (
    f"{layout.ENGINE_FOLDER}/libpatch_linear.so", "libpatch_linear.so", f"{layout.ONNX_FOLDER}/libpatch_linear.so",
    f"{layout.MODEL}/libpatch_linear.so", f"{layout.ENGINE_FOLDER}/libnvinfer_plugin.so",
    f"{layout.ONNX_FOLDER}/onnxruntime.so",
)  # fmt: skip
_PROGRAM = b"header {\n  accelerators={sm86 }\n"
_ENGINES = {
    "empty": b"", "zeros": bytes(10_000), "noise": draw("engine").randbytes(100_000), "a library": b"",  # the planted one
    "a program": _PROGRAM + b"}\nmain {\n}\0", "many programs": (_PROGRAM + b"\0") * 100_000, "no end": _PROGRAM * 1000,
    "colours": b'header {\n  accelerators={\x1b[31m }\n}\nmain {\n custom_layer={ name="\x1b[31m" input={"a" } }\n\0',
    "long names": b'header {\n}\nmain {\n x={ name="' + b"[profile 1" * 500_000 + b'" }\n\0',
    "many layers": b"header {\n}\nmain {\n"
    + b' custom_layer={ name="q" input={"a" "b" } layers="[ONNX Layer: q]" }\n' * 100_000,
    "unclosed inputs": b'header {\n}\nmain {\n x={ name="q" input={' + b'"a" ' * 300_000 + b" }\n\0",
    "long numbers": b"header {\n tensor={ const_payload_size=" + b"9" * 5000 + b' name="a" type=half }\n}\nmain {\n\0',
    "text": b"the cat sat " * 1000,
}  # fmt: skip
_STATE = {"made_by": "patch-compile", "stages": {"masks": {"key": "0", "files": {"masks.safetensors": "0"}}}}
_REPLACED = ("../../outside", "/etc/passwd", ".out.replaced-0123456789abcdef", "..", "", "\x1b[31m")


def _in_out(file: str, change: Change, *, rehash: bool = True) -> Make:
    """Returns a maker of a changed build. rehash: the manifest names the changed files as they are, as a stranger would."""

    def make(sound: Sound, folder: Path) -> None:
        out = sound.copy("out", folder / "stranger")
        (out / file).parent.mkdir(exist_ok=True)
        change(out / file)
        if rehash:
            _rehash(out)

    return make


def _rehash(out: Path) -> None:
    manifest = json.loads((out / layout.MANIFEST).read_text())
    for files in (manifest["files"], *(stage["files"] for stage in manifest["stages"].values())):
        for name in files:
            if (out / name).is_file() and (out / name).stat().st_size < 1 << 20:
                files[name] = hashlib.sha256((out / name).read_bytes()).hexdigest()
    (out / layout.MANIFEST).write_text(json.dumps(manifest))


def _cases(kind: str, commands: Any, makes: Any) -> Iterator[Case]:
    """Yield cases. commands: the cases take them in turn."""

    def in_turn(number: int, _name: str) -> tuple[str, ...]:
        return (commands[number % len(commands)],)

    return cases(kind, in_turn, makes, writes=WRITES)


def _fields(sound: Sound) -> Iterator[Case]:
    for file, (readers, each, most) in _FILES.items():
        make, put = partial(_in_out, rehash=file != layout.MANIFEST), partial(_in_out, rehash=False)
        changes = list(swapped(sound.json(f"out/{file}"), each, file))
        taken = draw(f"outs/{file}").sample(changes, min(most, len(changes)))
        yield from _cases("OUT", readers, contents(file, taken, make, f"{file} "))
        yield from _cases("OUT", readers, contents(file, TEXTS.items(), make, f"{file} is "))
        yield from _cases("OUT", readers, places(file, put, f"{file}: "))


def _named(place: str, *, stage: bool) -> Callable[[Any], None]:
    """Returns a change of a manifest: it names a file outside of OUT, which a later step would read or remove."""

    def change(manifest: Any) -> None:
        files = next(iter(manifest["stages"].values()))["files"] if stage else manifest["files"]
        files[place] = "0" * 64

    return change


def _manifests() -> Iterator[Case]:
    for place in _OUTSIDE:
        for stage in (False, True):
            for command in (INSPECT, BENCH, f"build SOUND/model -o stranger --force {BUILD}"):
                name = f"{'stage' if stage else 'manifest'} names {place[:20]!r}, {command.split()[0]}"
                make = _in_out(layout.MANIFEST, rewritten(_named(place, stage=stage)), rehash=False)
                writes = (*WRITES, "stranger") if command.startswith("build") else WRITES
                yield Case("OUT", name, make, (command,), writes=writes)


def _parts(sound: Sound) -> Iterator[Case]:
    """Changed recipes, models, masks and ONNX files of a build."""
    recipe = yaml.safe_load((sound.root / "out" / layout.RECIPE).read_text())
    taken = draw("OUT recipes").sample(list(swapped(recipe, 2, "OUT recipe")), 50)
    recipes = ((f"recipe {name}", _in_out(layout.RECIPE, written(yaml_text(value)))) for name, value in taken)
    yield from _cases("OUT", (VERIFY, BENCH, _AGAIN), recipes)
    for file in _PARTS:
        puts = enumerate(PLACES.items())
        makes = (
            (f"{file}: {name}", _in_out(file, put, rehash=number % 2 == 0)) for number, (name, put) in puts
        )
        yield from _cases("OUT", (RUN, INSPECT, VERIFY), makes)
    config, generation = f"{layout.MODEL}/config.json", f"{layout.MODEL}/generation_config.json"
    for name, value in VALUES.items():
        for key in _GENERATION:
            if draw(f"{name}/{key}").random() < 0.4:
                make = _in_out(generation, written({"do_sample": True, key: value}))
                yield from _cases("OUT", (RUN,), [(f"generation {key} = {name}", make)])
        for key in _CONFIG:
            if draw(f"config/{name}/{key}").random() < 0.4:
                make = _in_out(config, rewritten(at(key, to=value)))
                yield from _cases("OUT", (RUN,), [(f"config {key} = {name}", make)])


def _planted(sound: Sound) -> Iterator[Case]:
    """Compiled code where a loader may look for it. It writes the canary as soon as anything opens it."""
    library = (sound.root / "planted.so").read_bytes()
    loads = (_ENGINE_RUN, INSPECT, _INSPECT_ENGINE, "verify stranger --only built --lengths 1,4", COMPARE)
    for place in _PLANTED:
        make = _in_out(place, written(library))
        yield from _cases("planted code", loads, ((f"{place}, {command}", make) for command in loads))
        if layout.ENGINE_FOLDER in place:
            inspect = (f"inspect stranger/{place}",)
            yield from _cases("planted code", inspect, [(f"{place}, inspect it", make)])
    for name, content in (_ENGINES | {"a library": library}).items():
        make, inspects = _in_out(layout.ENGINE, written(content)), (_INSPECT_ENGINE, INSPECT)
        yield from _cases("engines", inspects, ((f"{name}, {command}", make) for command in inspects))
    puts = places(layout.ENGINE, partial(_in_out, rehash=False))
    yield from _cases("engines", (_INSPECT_ENGINE,), puts)


def _states() -> Iterator[tuple[str, Make]]:
    """Unfinished builds that are not as a build leaves them."""

    def state(content: Any) -> Make:
        def make(sound: Sound, folder: Path) -> None:
            (folder / "out-stranger.partial").mkdir()
            written(content)(folder / "out-stranger.partial" / layout.STATE)

        return make

    for name, changed in swapped(_STATE, 4, layout.STATE):
        yield f"state {name}", state(changed)
    for name, content in TEXTS.items():
        yield f"state is {name}", state(content)
    for place in _REPLACED:
        yield f"state replaces {place!r}", state(_STATE | {"replaces": place})


def out_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _fields(sound)
    yield from _manifests()
    yield from _parts(sound)
    yield from _planted(sound)
    yield from _cases("OUT", (f"learn SOUND/model -o out-stranger --resume {LEARN}",), _states())
