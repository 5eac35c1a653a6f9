"""Hostile safetensors files: as the weights of a checkpoint and as masks."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.hostile.case import Case, Sound, draw
from tests.attacks.hostile.models import model_with
from tests.attacks.hostile.mutations import PLACES, VALUES, dump, nested, swapped
from tests.attacks.hostile.sound import LEARN

__all__ = ["tensor_cases"]

_ROOM = "stranger/model.safetensors"
_WEIGHT = "model.layers.0.self_attn.q_proj.weight"
_LEARN = f"learn stranger -o out {LEARN}"
_PLAN = "plan SOUND/model --mask stranger.safetensors"
_COMPILE = "compile SOUND/model --mask stranger.safetensors -o out"
_SHAPES: dict[str, Any] = {
    "negative": [-64, -64], "one negative": [-1, 4096], "huge": [2**62, 4], "wraps": [2**32, 2**32], "fraction": [64.5, 64],
    "infinite": [float("inf"), 1], "text": ["64", "64"], "bool": [True, 4096], "nested": [[64], [64]], "a number": 4096,
    "an object": {"0": 64}, "null": None, "no axis": [], "many axes": [1] * 2000 + [4096], "zero": [0, 64],
    "flat": [4096], "other": [32, 128], "three": [4, 16, 64], "not a multiple of 4": [2048, 2], "a column": [4096, 1],
}  # fmt: skip
_OFFSETS: dict[str, Any] = {
    "negative": [-16384, 0], "beyond": [0, 2**40], "huge": [2**63, 2**63 + 16384], "turned": [16384, 0], "one": [0],
    "three": [0, 1, 2], "text": ["0", "16384"], "null": None, "fraction": [0.5, 16384.5], "digits": ["@digits@", 1],
    "nan": [float("nan"), 1], "infinite": [0, float("inf")], "an object": {},
}  # fmt: skip
_EXTRA = {
    "budget": {"per_layer": False, "ratio": 0.4, "unit": "weights"},
    "skipped": {"lm_head": "left dense"},
    "text": {"source": "file", "name": "a.txt", "sha256": "0", "tokens": 1, "windows": 1, "length": 1},
}
_TYPES: tuple[Any, ...] = (
    "F64", "F16", "BF16", "I32", "I8", "U16", "F8_E4M3", "F4", "f32", "", "C64", "object", None, 4, [], {}, "x" * 10_000,
)  # fmt: skip


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _write(path: Path, header: Any, data: bytes) -> None:
    blob = header if isinstance(header, bytes) else dump(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(blob)) + blob + data)


def _changed(
    change: Callable[[dict[str, Any]], Any], place: str, source: str
) -> Callable[[Sound, Path], None]:
    """Returns a maker that changes the header. change: changes it in its place, or returns another."""

    def make(sound: Sound, folder: Path) -> None:
        header, data = _read(sound.root / source)
        other = change(header)
        if "/" in place:
            model_with(sound, folder)
        _write(folder / place, header if other is None else other, data)

    return make


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        place = model_with(sound, folder) / "model.safetensors"
        place.write_bytes(change(place.read_bytes()))

    return make


def _set(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[_WEIGHT].__setitem__(field, value)


def _headers() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    for field, values in (("shape", _SHAPES), ("data_offsets", _OFFSETS)):
        for name, value in values.items():
            yield f"{field} {name}", _set(field, value)
    for value in _TYPES:
        yield f"dtype {str(value)[:12]!r}", _set("dtype", value)
    for name in ("null", "list", "-1", "long text", "deep", "colours"):
        yield f"entry {name}", lambda header, name=name: header.__setitem__(_WEIGHT, VALUES[name])
        yield f"metadata {name}", lambda header, name=name: header.__setitem__("__metadata__", VALUES[name])
        yield (
            f"metadata of {name}",
            lambda header, name=name: header.__setitem__("__metadata__", {"a": VALUES[name]}),
        )
    for name in ("", "\0", "../../x", "\x1b[31mred", "x" * 100_000, "\ud800", "a\nb", "__proto__"):
        yield (
            f"tensor called {name[:9]!r}",
            lambda header, name=name: header.__setitem__(name, header.pop(_WEIGHT)),
        )
    yield "without a weight", lambda header: header.pop(_WEIGHT) and None
    yield "no tensor", lambda header: {}
    yield "a list", lambda header: [header]
    yield "deep", lambda header: nested(900)
    yield "deeper", lambda header: b"[" * 1_000_000
    yield "a key twice", lambda header: dump(header).replace('"__metadata__"', f'"{_WEIGHT}"').encode()
    yield "a tensor twice", lambda header: header.__setitem__("stranger.weight", header[_WEIGHT])
    yield (
        "not UTF-8",
        lambda header: dump(header).replace("q_proj", "\udcff").encode("utf-8", "surrogateescape"),
    )
    yield (
        "200,000 entries",
        lambda header: {
            f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)
        },
    )


def _lengths() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    for name, length in {
        "0": 0,
        "1": 1,
        "100 MB": 99_999_999,
        "2**31": 2**31,
        "2**63": 2**63,
        "2**64 - 1": 2**64 - 1,
    }.items():
        yield f"header length {name}", lambda content, length=length: struct.pack("<Q", length) + content[8:]
    for end in (1, 7, 8, 9, 100, 1000, -1, -1000, -100_000):
        yield f"cut at {end}", lambda content, end=end: content[:end]
    yield "bytes behind", lambda content: content + bytes(100)
    for number in range(16):  # bits of the header
        yield f"flipped bits {number}", lambda content, number=number: _flip(content, number)


def _flip(content: bytes, number: int) -> bytes:
    random, made = draw(f"flip/{number}"), bytearray(content)
    for _ in range(3):
        made[random.randrange(1500)] ^= 1 << random.randrange(8)
    return bytes(made)


def _values(kind: str) -> Callable[[Sound, Path], None]:
    """Weights whose numbers are hostile."""

    def make(sound: Sound, folder: Path) -> None:
        import numpy as np

        place = model_with(sound, folder) / "model.safetensors"
        header, data = _read(place)
        start, end = header[_WEIGHT]["data_offsets"]
        array = np.frombuffer(data[start:end], "<f4").copy()
        fill = {"nan": np.nan, "inf": np.inf, "huge": 3e38, "tiny": 1e-44, "zero": 0.0, "one nan": None}[kind]
        if fill is None:
            array[7] = np.nan
        else:
            array[:] = fill
        _write(place, header, data[:start] + array.tobytes() + data[end:])

    return make


def _mask_case(name: str, make: Callable[[Sound, Path], None]) -> Case:
    uses = _COMPILE if draw(f"masks/{name}").random() < 0.15 else _PLAN  # an export takes seconds
    return Case("masks", name, make, ("inspect stranger.safetensors", uses))


def _masks() -> Iterator[Case]:
    """Change each field of the metadata, whose values are JSON, and each tensor."""
    place, source = "stranger.safetensors", "masks.safetensors"

    def metadata(change: Callable[[dict[str, Any]], Any]) -> Callable[[Sound, Path], None]:
        return _changed(lambda header: change(header["__metadata__"]), place, source)

    for key in (
        "base_model",
        "base_sha256",
        "extra",
        "format",
        "linears",
        "method",
        "ratio",
        "ratio_asked",
        "seed",
        "version",
    ):
        for name in draw(f"metadata/{key}").sample(sorted(VALUES), 3):
            yield _mask_case(
                f"{key} = {name}",
                metadata(lambda found, key=key, name=name: found.__setitem__(key, dump(VALUES[name]))),
            )
        yield _mask_case(f"{key} is no JSON", metadata(lambda found, key=key: found.__setitem__(key, "{")))
        yield _mask_case(f"{key} is gone", metadata(lambda found, key=key: found.pop(key, None) and None))
    name_of = "model.layers.0.self_attn.q_proj"
    sample = {"shape": [64, 64], "tile": [32, 32]}
    for where, changed in swapped(sample, 4, "masks/linear"):
        yield _mask_case(
            f"linear {where}", metadata(lambda found, changed=changed: _linear(found, name_of, changed))
        )
    for shape, tile in (
        ([64, 64], [0, 0]), ([64, 64], [-32, 32]), ([10**9, 10**9], [32, 32]), ([64, 64], [1, 1]), ([64, 64], [33, 7]),
        ([0, 0], [32, 32]), ([64, 66], [32, 32]), ([64, 64], [2**40, 2**40]), ([2**40, 4], [2**40, 4]),
    ):  # fmt: skip
        yield _mask_case(
            f"linear {shape} in tiles {tile}",
            metadata(lambda found, s=shape, t=tile: _linear(found, name_of, {"shape": s, "tile": t})),
        )
    for where, changed in swapped(_EXTRA, 2, "masks/extra"):
        yield _mask_case(
            f"extra {where}",
            metadata(lambda found, changed=changed: found.__setitem__("extra", dump(changed))),
        )
    for suffix in (".tiles", ".pattern"):
        for name, value in (("F32", ["F32", 4]), ("flat", ["U8", 1]), ("empty", ["U8", 0])):
            yield _mask_case(f"{suffix} {name}", _tensor(suffix, *value))
    for number in range(12):
        yield _mask_case(f"flipped bytes {number}", _noisy(number))
    for name, put in PLACES.items():
        yield _mask_case(name, lambda sound, folder, put=put: put(folder / place))


def _linear(metadata: dict[str, Any], name: str, value: Any) -> None:
    """Replace what the metadata say of one linear, wherever it is."""
    for key, text in metadata.items():
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict) and name in found:
            found[name] = value
            metadata[key] = dump(found)


def _tensor(suffix: str, code: str, size: int) -> Callable[[Sound, Path], None]:
    def change(header: dict[str, Any]) -> None:
        name = next(name for name in header if name.endswith(suffix))
        start, end = header[name]["data_offsets"]
        header[name]["dtype"] = code
        header[name]["shape"] = [(end - start) // size if size else 0]

    return _changed(change, "stranger.safetensors", "masks.safetensors")


def _noisy(number: int) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        random = draw(f"masks/{number}")
        header, data = _read(sound.root / "masks.safetensors")
        made = bytearray(data)
        for _ in range(1 if number < 6 else len(made)):
            made[random.randrange(len(made))] = random.randrange(256)
        _write(folder / "stranger.safetensors", header, bytes(made))

    return make


def tensor_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for number, (name, change) in enumerate(_headers()):
        commands = ("inspect stranger", _LEARN) if number % 3 else (f"inspect {_ROOM}", _LEARN)
        yield Case("safetensors", name, _changed(change, _ROOM, "model/model.safetensors"), commands)
    for name, cut in _lengths():
        yield Case("safetensors", name, _bytes(cut), (f"inspect {_ROOM}", "plan stranger --ratio 0.4"))
    for kind in ("nan", "inf", "huge", "tiny", "zero", "one nan"):
        yield Case("safetensors", f"numbers {kind}", _values(kind), (_LEARN,))
    for name, put in PLACES.items():
        yield Case(
            "safetensors",
            name,
            lambda sound, folder, put=put: _put(sound, folder, put),
            ("inspect stranger", _LEARN),
        )
    yield from _masks()


def _put(sound: Sound, folder: Path, put: Callable[[Path], None]) -> None:
    place = model_with(sound, folder) / "model.safetensors"
    place.unlink()
    put(place)
