"""Hostile safetensors files: as the weights of a checkpoint and as masks."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.attacks.hostile.case import LEARN, Case, Make, Sound, cases, in_model, places
from tests.attacks.values import (
    VALUES,
    Change,
    at,
    damaged,
    draw,
    dump,
    nested,
    safetensors_of,
    safetensors_parts,
    swapped,
)

_FILE, _MASKS = "model.safetensors", "stranger.safetensors"
_LINEAR = "model.layers.0.self_attn.q_proj"
_WEIGHT = f"{_LINEAR}.weight"
_LEARN = f"learn stranger -o out {LEARN}"
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
_TYPES: tuple[Any, ...] = (
    "F64", "F16", "BF16", "I32", "I8", "U16", "F8_E4M3", "F4", "f32", "", "C64", "object", None, 4, [], {}, "x" * 10_000,
)  # fmt: skip
_LENGTHS = {"0": 0, "1": 1, "100 MB": 99_999_999, "2**31": 2**31, "2**63": 2**63, "2**64 - 1": 2**64 - 1}
_EXTRA = {
    "budget": {"per_layer": False, "ratio": 0.4, "unit": "weights"},
    "skipped": {"lm_head": "left dense"},
    "text": {"source": "file", "name": "a.txt", "sha256": "0", "tokens": 1, "windows": 1, "length": 1},
}
_METADATA = (
    "base_model", "base_sha256", "extra", "format", "linears", "method", "ratio", "ratio_asked", "seed", "version",
)  # fmt: skip
_TILES = (
    ([64, 64], [0, 0]), ([64, 64], [-32, 32]), ([10**9, 10**9], [32, 32]), ([64, 64], [1, 1]), ([64, 64], [33, 7]),
    ([0, 0], [32, 32]), ([64, 66], [32, 32]), ([64, 64], [2**40, 2**40]), ([2**40, 4], [2**40, 4]),
)  # fmt: skip


def _parts(change: Callable[[Any, bytes], tuple[Any, bytes]]) -> Change:
    """Returns a change of the header and the data."""
    return _bytes(lambda content: safetensors_of(*change(*safetensors_parts(content))))


def _header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Returns a change of the header. change: changes it in its place, or returns another."""

    def changed(header: Any, data: bytes) -> tuple[Any, bytes]:
        other = change(header)
        return header if other is None else other, data

    return _parts(changed)


def _bytes(change: Callable[[bytes], bytes]) -> Change:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.__setitem__(name, header.pop(_WEIGHT))


def _headers() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    for name, value in _SHAPES.items():
        yield f"shape {name}", at(_WEIGHT, "shape", to=value)
    for name, value in _OFFSETS.items():
        yield f"data_offsets {name}", at(_WEIGHT, "data_offsets", to=value)
    for value in _TYPES:
        yield f"dtype {str(value)[:12]!r}", at(_WEIGHT, "dtype", to=value)
    for name in ("null", "list", "-1", "long text", "deep", "colours"):
        yield f"entry {name}", at(_WEIGHT, to=VALUES[name])
        yield f"metadata {name}", at("__metadata__", to=VALUES[name])
        yield f"metadata of {name}", at("__metadata__", to={"a": VALUES[name]})
    for name in ("", "\0", "../../x", "\x1b[31mred", "x" * 100_000, "\ud800", "a\nb", "__proto__"):
        yield f"tensor called {name[:9]!r}", _renamed(name)
    yield "without a weight", at(_WEIGHT)
    yield "no tensor", lambda header: {}
    yield "a list", lambda header: [header]
    yield "deep", lambda header: nested(900)
    yield "deeper", lambda header: b"[" * 1_000_000
    yield "a key twice", lambda header: dump(header).replace('"__metadata__"', f'"{_WEIGHT}"').encode()
    yield "a tensor twice", lambda header: header.__setitem__("stranger.weight", header[_WEIGHT])
    yield "not UTF-8", lambda h: dump(h).replace("q_proj", "\udcff").encode("utf-8", "surrogateescape")
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    yield "200,000 entries", lambda header: {f"t{i}": empty for i in range(200_000)}


def _lengths() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    for name, length in _LENGTHS.items():
        yield f"header length {name}", lambda content, length=length: struct.pack("<Q", length) + content[8:]
    for end in (1, 7, 8, 9, 100, 1000, -1, -1000, -100_000):
        yield f"cut at {end}", lambda content, end=end: content[:end]
    yield "bytes behind", lambda content: content + bytes(100)
    for number in range(16):  # of the header
        yield (
            f"flipped bits {number}",
            lambda content, i=number: damaged(content, f"flip/{i}", 3, slice(1500)),
        )


def _numbers(value: float, where: slice = slice(None)) -> Change:
    """Returns a change of a weight's numbers."""

    def changed(header: Any, data: bytes) -> tuple[Any, bytes]:
        start, end = header[_WEIGHT]["data_offsets"]
        array = np.frombuffer(data[start:end], "<f4").copy()
        array[where] = value
        return header, data[:start] + array.tobytes() + data[end:]

    return _parts(changed)


def _mask(change: Change) -> Make:
    return lambda sound, folder: change(sound.copy("masks.safetensors", folder / _MASKS))


def _linear(value: Any) -> Callable[[dict[str, Any]], None]:
    """Returns a change that puts the value into each record of one linear in the metadata."""

    def change(header: dict[str, Any]) -> None:
        for key, text in header["__metadata__"].items():
            try:
                found = json.loads(text)
            except ValueError:
                continue
            if isinstance(found, dict) and _LINEAR in found:
                header["__metadata__"][key] = dump(found | {_LINEAR: value})

    return change


def _tensor(suffix: str, code: str, size: int) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        own = next(own for name, own in header.items() if name.endswith(suffix))
        start, end = own["data_offsets"]
        own |= {"dtype": code, "shape": [(end - start) // size if size else 0]}

    return change


def _metadata() -> Iterator[tuple[str, Callable[[dict[str, Any]], None]]]:
    """Yield changes of each field of the metadata, whose values are JSON, and of each tensor's entry."""
    for key in _METADATA:
        for name in draw(f"metadata/{key}").sample(sorted(VALUES), 3):
            yield f"{key} = {name}", at("__metadata__", key, to=dump(VALUES[name]))
        yield f"{key} is no JSON", at("__metadata__", key, to="{")
        yield f"{key} is gone", at("__metadata__", key)
    for where, changed in swapped({"shape": [64, 64], "tile": [32, 32]}, 4, "masks/linear"):
        yield f"linear {where}", _linear(changed)
    for shape, tile in _TILES:
        yield f"linear {shape} in tiles {tile}", _linear({"shape": shape, "tile": tile})
    for where, changed in swapped(_EXTRA, 2, "masks/extra"):
        yield f"extra {where}", at("__metadata__", "extra", to=dump(changed))
    for suffix in (".tiles", ".pattern"):
        for name, code, size in (("F32", "F32", 4), ("flat", "U8", 1), ("empty", "U8", 0)):
            yield f"{suffix} {name}", _tensor(suffix, code, size)


def _noisy(number: int) -> Change:
    def changed(header: Any, data: bytes) -> tuple[Any, bytes]:
        return header, damaged(data, f"masks/{number}", 1 if number < 6 else len(data))

    return _parts(changed)


def _uses(number: int, name: str) -> tuple[str, ...]:
    # an export takes seconds
    compiles = draw(f"masks/{name}").random() < 0.15
    use = f"compile SOUND/model --mask {_MASKS} -o out" if compiles else f"plan SOUND/model --mask {_MASKS}"
    return f"inspect {_MASKS}", use


def tensor_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    kind, inspect = "safetensors", f"inspect stranger/{_FILE}"
    makes = ((name, in_model(_FILE, _header(change))) for name, change in _headers())
    yield from cases(kind, lambda number, _: ("inspect stranger" if number % 3 else inspect, _LEARN), makes)
    makes = ((name, in_model(_FILE, _bytes(change))) for name, change in _lengths())
    yield from cases(kind, (inspect, "plan stranger --ratio 0.4"), makes)
    numbers = {"nan": np.nan, "inf": np.inf, "huge": 3e38, "tiny": 1e-44, "zero": 0.0}
    changes = {name: _numbers(value) for name, value in numbers.items()} | {
        "one nan": _numbers(np.nan, slice(7, 8))
    }
    yield from cases(
        kind, (_LEARN,), ((f"numbers {name}", in_model(_FILE, c)) for name, c in changes.items())
    )
    yield from cases(kind, ("inspect stranger", _LEARN), places(_FILE, in_model))
    yield from cases("masks", _uses, ((name, _mask(_header(change))) for name, change in _metadata()))
    yield from cases("masks", _uses, ((f"flipped bytes {i}", _mask(_noisy(i))) for i in range(12)))
    yield from cases("masks", _uses, places(_MASKS))
