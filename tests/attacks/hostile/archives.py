"""Hostile archives: masks as .npz, inputs of ONNX models as .npz, texts as Parquet, and pickles in their place."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.hostile.case import Case, Sound, draw
from tests.attacks.hostile.mutations import PLACES
from tests.attacks.hostile.sound import LEARN

__all__ = ["archive_cases"]

_WEIGHT = "model.layers.0.self_attn.q_proj.weight"
_IMPORT = "import-mask stranger.npz --model SOUND/model -o masks-out.safetensors"
_BUILD = (
    "build SOUND/model.onnx -o out --ratio 0.4 --method wanda --tile 32x32 --backend onnx --lowering plugin "
    "--calib stranger.npz"
)
_PARQUET = f"learn SOUND/model -o out {LEARN.replace('magnitude', 'wanda --windows 1 --length 16')}".replace(
    "--calib SOUND/text.txt", "--calib stranger.parquet"
)
_BOMB = 40 << 30  # bytes that an archive of a few KB unpacks to


def _array(array: Any, **changed: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=changed.get("pickle", False))
    return file.getvalue()


def _header(text: str, body: bytes = b"") -> bytes:
    """Returns a .npy whose header is any text."""
    blob = text.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + len(blob).to_bytes(4, "little") + blob + body


def _npz(members: dict[str, bytes]) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        with zipfile.ZipFile(folder / "stranger.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return make


def _bomb(name: str, header: bytes) -> Callable[[Sound, Path], None]:
    """An archive of KB whose member unpacks to a gigabyte, and announces more."""

    def make(sound: Sound, folder: Path) -> None:
        with (
            zipfile.ZipFile(folder / "stranger.npz", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(name, "w", force_zip64=True) as file,
        ):
            file.write(header)
            for _ in range(256):
                file.write(bytes(4 << 20))

    return make


class _Canary:
    """Writes the canary when a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return eval, ("open(__import__('os').environ['HOSTILE_CANARY'], 'w')",)


_HEADERS = {
    "40 GiB": f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({_BOMB},)}}",
    "negative": "{'descr': '|u1', 'fortran_order': False, 'shape': (-512,)}",
    "wraps": "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (512,)}",
    "call": "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1,)}",
    "deep": "(" * 20_000 + ")" * 20_000,
    "not closed": "{'descr': '|u1'",
    "other type": "{'descr': 'stranger', 'fortran_order': False, 'shape': (1,)}",
    "fields": "{'descr': [('a', '<f8', (100000, 100000))], 'fortran_order': False, 'shape': (1,)}",
    "colours": "{'descr': '\x1b[31m', 'fortran_order': False, 'shape': (1,)}",
}


def _members(good: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    for name, text in _HEADERS.items():
        yield f"header {name}", {f"{_WEIGHT}.npy": _header(text, good)}
    for name, array in {
        "floats": np.zeros(512, "f4"), "other size": np.zeros(17, "u1"), "empty": np.zeros(0, "u1"), "scalar": np.uint8(3),
        "table": np.zeros((8, 64), "u1"), "text": np.array(["stranger"]), "complex": np.zeros(512, "c8"),
    }.items():  # fmt: skip
        yield f"array of {name}", {f"{_WEIGHT}.npy": _array(array)}
        yield f"shape of {name}", {f"{_WEIGHT}.npy": good, f"{_WEIGHT}.__shape__.npy": _array(array)}
    yield "pickled object", {f"{_WEIGHT}.npy": _array(np.array([_Canary()], object), pickle=True)}
    yield "pickle as member", {"data.pkl": good, f"{_WEIGHT}.npy": good}
    for name in (
        "../../outside.npy",
        "/etc/x.npy",
        "\x1b[31m.npy",
        ".npy",
        "x" * 60_000 + ".npy",
        "__meta__.npy",
        "stranger",
    ):
        yield f"member {name[:12]!r}", {name: good}
    for name, text in (
        ("deep", "[" * 100_000),
        ("list", "[]"),
        ("not JSON", "{"),
        ("colours", '{"pattern": "\\u001b[31m"}'),
    ):
        yield f"meta {name}", {"__meta__.npy": _array(np.array(text)), f"{_WEIGHT}.npy": good}
    yield "many members", {f"{i}.npy": b"" for i in range(20_000)}
    yield "no member", {}
    yield "cut member", {f"{_WEIGHT}.npy": good[:-7]}
    yield "random bits", {f"{_WEIGHT}.npy": _array(np.frombuffer(draw("bits").randbytes(512), "u1"))}
    yield "all kept", {f"{_WEIGHT}.npy": _array(np.full(512, 255, "u1"))}
    yield "none kept", {f"{_WEIGHT}.npy": _array(np.zeros(512, "u1"))}


def _damage(content: bytes, number: int) -> bytes:
    random, made = draw(f"npz/{number}"), bytearray(content)
    for _ in range(4):
        made[random.randrange(len(made))] = random.randrange(256)
    return bytes(made) if number % 2 else bytes(made[: random.randrange(len(made))])


def _damaged(number: int, name: str, array: Any) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        np.savez(folder / "stranger.npz", **{name: array})
        place = folder / "stranger.npz"
        place.write_bytes(_damage(place.read_bytes(), number))

    return make


def _masks() -> Iterator[Case]:
    good = _array(np.full(512, 0b11001100, "u1"))
    for name, members in _members(good):
        yield Case("npz masks", name, _npz(members), (_IMPORT,))
    yield Case("npz masks", "a bomb", _bomb(f"{_WEIGHT}.npy", _header(_HEADERS["40 GiB"])), (_IMPORT,))
    for number in range(12):
        yield Case(
            "npz masks", f"damaged {number}", _damaged(number, _WEIGHT, np.full(512, 204, "u1")), (_IMPORT,)
        )
    for name, put in PLACES.items():
        yield Case("npz masks", name, lambda sound, folder, put=put: put(folder / "stranger.npz"), (_IMPORT,))


def _inputs() -> Iterator[Case]:
    """The .npz of calibration inputs of an ONNX model, whose input x is [rows, 64]."""
    arrays = {
        "nan": np.full((4, 8, 64), np.nan, "f4"), "inf": np.full((4, 8, 64), np.inf, "f4"), "huge": np.full((4, 8, 64),
        3e38, "f4"),
        "no runs": np.zeros((0, 8, 64), "f4"), "no rows": np.zeros((4, 0, 64), "f4"), "other width": np.zeros((4, 8, 63),
        "f4"),
        "many axes": np.zeros((1,) * 30, "f4"), "scalar": np.float32(1), "ints": np.zeros((4, 8, 64), "i8"),
        "text": np.array("x"),
        "complex": np.zeros((4, 8, 64), "c8"), "bools": np.zeros((4, 8, 64), "?"), "halves": np.zeros((4, 8, 64), "f2"),
    }  # fmt: skip
    for name, array in arrays.items():
        yield Case("npz inputs", name, _npz({"x.npy": _array(array)}), (_BUILD,))
    for name, text in _HEADERS.items():
        yield Case("npz inputs", f"header {name}", _npz({"x.npy": _header(text, bytes(8192))}), (_BUILD,))
    for name in ("y.npy", "../x.npy", "\x1b[31m.npy", "x.npy/", "x"):
        yield Case("npz inputs", f"member {name!r}", _npz({name: _array(arrays["huge"])}), (_BUILD,))
    wide = "{'descr': '<f4', 'fortran_order': False, 'shape': (33554432, 64)}"
    yield Case("npz inputs", "a bomb", _bomb("x.npy", _header(wide)), (_BUILD,))
    yield Case(
        "npz inputs",
        "a pickled object",
        _npz({"x.npy": _array(np.array([_Canary()], object), pickle=True)}),
        (_BUILD,),
    )
    for number in range(6):
        yield Case(
            "npz inputs", f"damaged {number}", _damaged(number, "x", np.zeros((4, 8, 64), "f4")), (_BUILD,)
        )
    for name, put in PLACES.items():
        yield Case("npz inputs", name, lambda sound, folder, put=put: put(folder / "stranger.npz"), (_BUILD,))


def _parquets() -> Iterator[Case]:
    def table(columns: dict[str, Any], **options: Any) -> Callable[[Sound, Path], None]:
        def make(sound: Sound, folder: Path) -> None:
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(
                pa.table(columns() if callable(columns) else columns), folder / "stranger.parquet", **options
            )

        return make

    words = "the cat sat on a mat"
    makers: dict[str, Callable[[Sound, Path], None]] = {
        "no rows": table(lambda: {"text": _strings([])}),
        "nulls": table(lambda: {"text": _strings([None] * 100)}),
        "numbers": table({"text": [1, 2, 3]}),
        "two texts": table({"a": [words], "b": [words]}),
        "chats": table({"messages": [[{"role": "user", "content": words}]]}),
        "nested": table({"text": [[words]]}),
        "colours": table({"\x1b[31mred": [1]}),
        "a bomb of one row": table({"text": ["a" * (400 << 20)]}, compression="zstd"),
        "a bomb of many rows": table(lambda: {"text": _repeated("a" * 100_000, 6_000)}, compression="zstd"),
        "many columns": table({f"c{i}": [i] for i in range(5000)}),
        "bytes": table({"text": [b"\xff\xfe"]}),
    }
    for name, make in makers.items():
        yield Case("parquet", name, make, (_PARQUET,))
    for number in range(10):
        yield Case(
            "parquet",
            f"damaged {number}",
            _damaged_parquet(number, table({"text": [words] * 100})),
            (_PARQUET,),
        )
    for name, put in PLACES.items():
        yield Case(
            "parquet", name, lambda sound, folder, put=put: put(folder / "stranger.parquet"), (_PARQUET,)
        )


def _strings(values: list[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _repeated(text: str, count: int) -> Any:
    """Returns a column that holds one text many times, stored once."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


def _damaged_parquet(number: int, whole: Callable[[Sound, Path], None]) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        whole(sound, folder)
        place = folder / "stranger.parquet"
        place.write_bytes(_damage(place.read_bytes(), number))

    return make


def archive_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _masks()
    yield from _inputs()
    yield from _parquets()
