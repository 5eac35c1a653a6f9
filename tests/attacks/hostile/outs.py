"""Hostile builds: every file of OUT with a field changed, code planted beside an engine, and unfinished builds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from patch_compile.artifacts import layout
from tests.attacks.hostile.case import Case, Sound, draw
from tests.attacks.hostile.mutations import PLACES, TEXTS, VALUES, dump, swapped
from tests.attacks.hostile.sound import BUILD, LEARN

__all__ = ["BENCH", "COMPARE", "INSPECT", "RUN", "VERIFY", "WRITES", "out_cases"]

INSPECT = "inspect stranger"
COMPARE = "compare stranger SOUND/out"
RUN = "run stranger 'the cat' --runner onnx --new-tokens 2"
_ENGINE_RUN = "run stranger 'the cat' --new-tokens 2"
VERIFY = "verify stranger --only pruned --lengths 1,4"
BENCH = "bench stranger --runner onnx --batch-size 1 --prompt-tokens 8 --iterations 1 --warm-up 1 --against none --force"
_AGAIN = f"build --recipe stranger/{layout.RECIPE} -o out --force --eval stranger.txt"
WRITES = tuple(
    f"stranger/{name}"
    for name in (
        layout.VERIFY_FOLDER,
        layout.BENCH_FOLDER,
        layout.MANIFEST,
        "report.",
        ".",
        layout.PAGE,
        layout.CARD,
    )
)
_READERS = {
    layout.MANIFEST: (INSPECT, RUN, COMPARE, BENCH),
    layout.REPORT: (COMPARE, VERIFY, INSPECT),
    layout.PLAN: (INSPECT, COMPARE),
    layout.BENCH: (COMPARE, INSPECT, BENCH),
    layout.VERIFY: (COMPARE, INSPECT, VERIFY),
    layout.ENGINE_REPORT: (_ENGINE_RUN, INSPECT, f"inspect stranger/{layout.ENGINE}", COMPARE),
}
# How many hostile values each field of a file is given, and how many fields of it are changed.
_TIMES = {layout.MANIFEST: (2, 80), layout.REPORT: (1, 120), layout.PLAN: (1, 50), layout.BENCH: (1, 50),
layout.VERIFY: (1, 60),
          layout.ENGINE_REPORT: (3, 80)}  # fmt: skip


def _case(
    kind: str,
    name: str,
    make: Callable[[Sound, Path], None],
    *commands: str,
    named: tuple[str, ...] = ("stranger",),
) -> Case:
    return Case(kind, name, make, commands, named, writes=WRITES)


def _build(change: Callable[[Path], Any], *, rehash: bool = True) -> Callable[[Sound, Path], None]:
    """Returns a maker of a changed build. rehash: the manifest names the changed files as they are, as a stranger would."""

    def make(sound: Sound, folder: Path) -> None:
        out = sound.copy("out", folder / "stranger")
        change(out)
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


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(
            content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        )

    return change


def _fields(sound: Sound) -> Iterator[Case]:
    for file, readers in _READERS.items():
        value = json.loads((sound.root / "out" / file).read_text())
        each, most = _TIMES[file]
        changes = list(swapped(value, each, file))
        taken = draw(f"outs/{file}").sample(changes, min(most, len(changes)))
        for number, (name, changed) in enumerate(taken):
            make = _build(_write(file, dump(changed)), rehash=file != layout.MANIFEST)
            yield _case("OUT", f"{file} {name}", make, readers[number % len(readers)])
        for number, (name, content) in enumerate(TEXTS.items()):
            make = _build(_write(file, content), rehash=file != layout.MANIFEST)
            yield _case("OUT", f"{file} is {name}", make, readers[number % len(readers)])
        for number, (name, put) in enumerate(PLACES.items()):
            make = _build(_put(file, put), rehash=False)
            yield _case("OUT", f"{file}: {name}", make, readers[number % len(readers)])


def _put(file: str, put: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        (out / file).unlink()
        put(out / file)

    return change


def _manifests() -> Iterator[Case]:
    """A manifest that names files outside of OUT, which a later step would read or remove."""

    def named(place: str, *, stage: bool) -> Callable[[Path], None]:
        def change(out: Path) -> None:
            path = out / layout.MANIFEST
            manifest = json.loads(path.read_text())
            files = next(iter(manifest["stages"].values()))["files"] if stage else manifest["files"]
            files[place] = "0" * 64
            path.write_text(dump(manifest), errors="surrogatepass")

        return change

    for place in (
        "../../outside",
        "/etc/hostname",
        "",
        ".",
        "..",
        "a\0b",
        "x" * 5000,
        "\x1b[31mred",
        "stranger/../../outside",
        "\ud800",
    ):
        for stage in (False, True):
            for command in (INSPECT, BENCH, f"build SOUND/model -o stranger --force {BUILD}"):
                name = f"{'stage' if stage else 'manifest'} names {place[:20]!r}, {command.split()[0]}"
                made = _build(named(place, stage=stage), rehash=False)
                writes = (*WRITES, "stranger") if command.startswith("build") else WRITES
                yield Case("OUT", name, made, (command,), writes=writes)


def _recipes(sound: Sound) -> Iterator[Case]:
    value = yaml.safe_load((sound.root / "out" / layout.RECIPE).read_text())
    changes = list(swapped(value, 2, "OUT recipe"))
    for number, (name, changed) in enumerate(draw("OUT recipes").sample(changes, 50)):
        text = yaml.safe_dump(changed).replace("@digits@", "9" * 5000)
        command = (VERIFY, BENCH, _AGAIN)[number % 3]
        yield _case("OUT", f"recipe {name}", _build(_write(layout.RECIPE, text)), command)


def _parts() -> Iterator[Case]:
    """The model, the masks and the ONNX file of a build."""
    for file in (f"{layout.MODEL}/config.json", f"{layout.MODEL}/generation_config.json", f"{layout.MODEL}/tokenizer.json",
                 f"{layout.MODEL}/model.safetensors", layout.MASKS, layout.ONNX, f"{layout.ONNX}.data"):  # fmt: skip
        for number, (name, put) in enumerate(PLACES.items()):
            command = (RUN, INSPECT, VERIFY)[number % 3]
            yield _case("OUT", f"{file}: {name}", _build(_put(file, put), rehash=number % 2 == 0), command)
    for name, value in VALUES.items():
        for key in ("eos_token_id", "do_sample", "repetition_penalty", "temperature", "top_k", "top_p"):
            if draw(f"{name}/{key}").random() < 0.4:
                text = dump({"do_sample": True, key: value})
                yield _case(
                    "OUT",
                    f"generation {key} = {name}",
                    _build(_write(f"{layout.MODEL}/generation_config.json", text)),
                    RUN,
                )
        for key in ("max_position_embeddings", "sliding_window", "text_config", "layer_types"):
            if draw(f"config/{name}/{key}").random() < 0.4:
                yield _case(
                    "OUT",
                    f"config {key} = {name}",
                    _build(lambda out, k=key, v=value: _reconfigured(out, k, v)),
                    RUN,
                )


def _reconfigured(out: Path, key: str, value: Any) -> None:
    path = out / layout.MODEL / "config.json"
    path.write_text(dump(json.loads(path.read_text()) | {key: value}), errors="surrogatepass")


def _planted(sound: Sound) -> Iterator[Case]:
    """Compiled code where a loader may look for it. It writes the canary as soon as anything opens it."""
    library = (sound.root / "planted.so").read_bytes()
    places = (f"{layout.ENGINE_FOLDER}/libpatch_linear.so", "libpatch_linear.so",
    f"{layout.ONNX_FOLDER}/libpatch_linear.so",
              f"{layout.MODEL}/libpatch_linear.so", f"{layout.ENGINE_FOLDER}/libnvinfer_plugin.so",
              f"{layout.ONNX_FOLDER}/onnxruntime.so")  # fmt: skip
    for place in places:
        for command in (
            _ENGINE_RUN,
            INSPECT,
            f"inspect stranger/{layout.ENGINE}",
            "verify stranger --only built --lengths 1,4",
            COMPARE,
        ):
            yield _case("planted code", f"{place}, {command}", _build(_write(place, library)), command)
        if layout.ENGINE_FOLDER in place:
            yield _case(
                "planted code",
                f"{place}, inspect it",
                _build(_write(place, library)),
                f"inspect stranger/{place}",
            )
    programs = b"header {\n  accelerators={sm86 }\n"
    for name, content in {
        "empty": b"", "zeros": bytes(10_000), "noise": draw("engine").randbytes(100_000), "a library": library,
        "a program": programs + b"}\nmain {\n}\0", "many programs": (programs + b"\0") * 100_000, "no end": programs * 1000,
        "colours": b'header {\n  accelerators={\x1b[31m }\n}\nmain {\n custom_layer={ name="\x1b[31m" input={"a" } }\n\0',
        "long names": b'header {\n}\nmain {\n x={ name="' + b"[profile 1" * 500_000 + b'" }\n\0',
        "many layers": b"header {\n}\nmain {\n"
        + b' custom_layer={ name="q" input={"a" "b" } layers="[ONNX Layer: q]" }\n' * 100_000,
        "unclosed inputs": b'header {\n}\nmain {\n x={ name="q" input={' + b'"a" ' * 300_000 + b" }\n\0",
        "long numbers": b"header {\n tensor={ const_payload_size=" + b"9" * 5000 + b' name="a" type=half }\n}\nmain {\n\0',
        "text": b"the cat sat " * 1000,
    }.items():  # fmt: skip
        for command in (f"inspect stranger/{layout.ENGINE}", INSPECT):
            yield _case("engines", f"{name}, {command}", _build(_write(layout.ENGINE, content)), command)
    for name, put in PLACES.items():
        yield _case(
            "engines",
            f"{name}",
            _build(_put(layout.ENGINE, put), rehash=False),
            f"inspect stranger/{layout.ENGINE}",
        )


def _states() -> Iterator[Case]:
    """Unfinished builds that are not as a build leaves them."""
    good = {
        "made_by": "patch-compile",
        "stages": {"masks": {"key": "0", "files": {"masks.safetensors": "0"}}},
    }
    command = f"learn SOUND/model -o out-stranger --resume {LEARN}"

    def state(content: bytes) -> Callable[[Sound, Path], None]:
        def make(sound: Sound, folder: Path) -> None:
            (folder / "out-stranger.partial").mkdir()
            (folder / "out-stranger.partial" / layout.STATE).write_bytes(content)

        return make

    for name, changed in swapped(good, 4, layout.STATE):
        yield _case("OUT", f"state {name}", state(dump(changed).encode("utf-8", "surrogatepass")), command)
    for name, content in TEXTS.items():
        yield _case("OUT", f"state is {name}", state(content), command)
    for place in ("../../outside", "/etc/passwd", ".out.replaced-0123456789abcdef", "..", "", "\x1b[31m"):
        yield _case(
            "OUT", f"state replaces {place!r}", state(dump(good | {"replaces": place}).encode()), command
        )


def out_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _fields(sound)
    yield from _manifests()
    yield from _recipes(sound)
    yield from _parts()
    yield from _planted(sound)
    yield from _states()
