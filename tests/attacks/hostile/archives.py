"""Hostile archives: masks as .npz, inputs of ONNX models as .npz, texts as Parquet, and pickles in their place."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.hostile.case import ONNX_BUILD, WANDA, Case, Make, Sound, alone, cases, places
from tests.attacks.hostile.outs import VERIFY, WRITES
from tests.attacks.values import Change, damaged, draw

_WEIGHT = "model.layers.0.self_attn.q_proj.weight"
_IMPORT = ("import-mask stranger.npz --model SOUND/model -o masks-out.safetensors",)
_BUILD = (ONNX_BUILD.format("SOUND/model.onnx").replace("magnitude", "wanda") + " --calib stranger.npz",)
_LEARN = (f"learn SOUND/model -o out {WANDA}".replace("--calib SOUND/text.txt", "--calib stranger.parquet"),)
_DATASET = (_LEARN[0].replace("stranger.parquet", "stranger::train"),)
_TASKS = (f"{VERIFY} --tasks own --task-folder tasks",)
_TASK = """task: own
dataset_path: parquet
dataset_kwargs: {data_files: {test: stranger.parquet}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ''
doc_to_target: '{{text}}'
"""
_AGAIN = "a text again and again"
_BOMB = 40 << 30  # bytes that an archive of a few KB unpacks to
_WORDS = "the cat sat on a mat"


class _Canary:
    """Writes the canary when a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return eval, ("open(__import__('os').environ['HOSTILE_CANARY'], 'w')",)


def _array(array: Any, **changed: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=changed.get("pickle", False))
    return file.getvalue()


def _header(text: str, body: bytes = b"") -> bytes:
    """Returns a .npy whose header is any text."""
    blob = text.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + len(blob).to_bytes(4, "little") + blob + body


def _npz(members: dict[str, bytes]) -> Change:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def _bomb(name: str, header: bytes) -> Change:
    """Returns a change to an archive of KB whose member unpacks to a gigabyte, and announces more."""

    def write(path: Path) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(name, "w", force_zip64=True) as file,
        ):
            file.write(header)
            for _ in range(256):
                file.write(bytes(4 << 20))

    return write


_PICKLED = _array(np.array([_Canary()], object), pickle=True)
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
_MASKS: dict[str, Any] = {
    "floats": np.zeros(512, "f4"), "other size": np.zeros(17, "u1"), "empty": np.zeros(0, "u1"), "scalar": np.uint8(3),
    "table": np.zeros((8, 64), "u1"), "text": np.array(["stranger"]), "complex": np.zeros(512, "c8"),
}  # fmt: skip
_MEMBERS = (
    "../../outside.npy", "/etc/x.npy", "\x1b[31m.npy", ".npy", "x" * 60_000 + ".npy", "__meta__.npy", "stranger",
)  # fmt: skip
_METADATA = {"deep": "[" * 100_000, "list": "[]", "not JSON": "{", "colours": '{"pattern": "\\u001b[31m"}'}
# Inputs of the ONNX model, whose input x is [rows, 64].
_INPUTS: dict[str, Any] = {
    "nan": np.full((4, 8, 64), np.nan, "f4"), "inf": np.full((4, 8, 64), np.inf, "f4"), "huge": np.full((4, 8, 64),
    3e38, "f4"),
    "no runs": np.zeros((0, 8, 64), "f4"), "no rows": np.zeros((4, 0, 64), "f4"), "other width": np.zeros((4, 8, 63),
    "f4"),
    "many axes": np.zeros((1,) * 30, "f4"), "scalar": np.float32(1), "ints": np.zeros((4, 8, 64), "i8"),
    "text": np.array("x"),
    "complex": np.zeros((4, 8, 64), "c8"), "bools": np.zeros((4, 8, 64), "?"), "halves": np.zeros((4, 8, 64), "f2"),
}  # fmt: skip


def _masks() -> Iterator[tuple[str, Change]]:
    weight, good = f"{_WEIGHT}.npy", _array(np.full(512, 0b11001100, "u1"))

    def of(content: bytes) -> Change:
        return _npz({weight: content})

    for name, text in _HEADERS.items():
        yield f"header {name}", of(_header(text, good))
    for name, array in _MASKS.items():
        yield f"array of {name}", of(_array(array))
        yield f"shape of {name}", _npz({weight: good, f"{_WEIGHT}.__shape__.npy": _array(array)})
    yield "pickled object", of(_PICKLED)
    yield "pickle as member", _npz({"data.pkl": good, weight: good})
    for name in _MEMBERS:
        yield f"member {name[:12]!r}", _npz({name: good})
    for name, text in _METADATA.items():
        yield f"meta {name}", _npz({"__meta__.npy": _array(np.array(text)), weight: good})
    yield "many members", _npz({f"{i}.npy": b"" for i in range(20_000)})
    yield "no member", _npz({})
    yield "cut member", of(good[:-7])
    yield "random bits", of(_array(np.frombuffer(draw("bits").randbytes(512), "u1")))
    yield "all kept", of(_array(np.full(512, 255, "u1")))
    yield "none kept", of(_array(np.zeros(512, "u1")))
    yield "a bomb", _bomb(weight, _header(_HEADERS["40 GiB"]))
    for number in range(12):
        yield f"damaged {number}", _damaged(number, _saved(_WEIGHT, np.full(512, 204, "u1")))


def _inputs() -> Iterator[tuple[str, Change]]:
    for name, array in _INPUTS.items():
        yield name, _npz({"x.npy": _array(array)})
    for name, text in _HEADERS.items():
        yield f"header {name}", _npz({"x.npy": _header(text, bytes(8192))})
    for name in ("y.npy", "../x.npy", "\x1b[31m.npy", "x.npy/", "x"):
        yield f"member {name!r}", _npz({name: _array(_INPUTS["huge"])})
    wide = "{'descr': '<f4', 'fortran_order': False, 'shape': (33554432, 64)}"
    yield "a bomb", _bomb("x.npy", _header(wide))
    yield "a pickled object", _npz({"x.npy": _PICKLED})
    for number in range(6):
        yield f"damaged {number}", _damaged(number, _saved("x", np.zeros((4, 8, 64), "f4")))


def _saved(name: str, array: Any) -> Change:
    return lambda path: np.savez(path, **{name: array})


def _damaged(number: int, whole: Change) -> Change:
    def write(path: Path) -> None:
        whole(path)
        path.write_bytes(damaged(path.read_bytes(), f"npz/{number}", 4, cut=number % 2 == 0))

    return write


def _parquets() -> Iterator[tuple[str, Change]]:
    import pyarrow as pa
    from pyarrow import parquet

    def table(columns: dict[str, Any] | Callable[[], dict[str, Any]], **options: Any) -> Change:
        def write(path: Path) -> None:
            parquet.write_table(pa.table(columns() if callable(columns) else columns), path, **options)

        return write

    def repeated() -> dict[str, Any]:
        """Returns a column that holds one text many times, stored once."""
        indices = pa.array([0] * 6_000, pa.int32())
        return {"text": pa.DictionaryArray.from_arrays(indices, pa.array(["a" * 100_000]))}

    yield "no rows", table({"text": pa.array([], pa.string())})
    yield "nulls", table({"text": pa.array([None] * 100, pa.string())})
    yield "numbers", table({"text": [1, 2, 3]})
    yield "two texts", table({"a": [_WORDS], "b": [_WORDS]})
    yield "chats", table({"messages": [[{"role": "user", "content": _WORDS}]]})
    yield "nested", table({"text": [[_WORDS]]})
    yield "colours", table({"\x1b[31mred": [1]})
    yield "a bomb of one row", table(lambda: {"text": ["a" * (400 << 20)]}, compression="zstd")
    yield "a bomb of many rows", table(repeated, compression="zstd")
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000, pa.int32()), pa.array([_WORDS * 100_000]))
    yield _AGAIN, table({"text": words}, compression="zstd")
    yield "many columns", table({f"c{i}": [i] for i in range(5000)})
    yield "bytes", table({"text": [b"\xff\xfe"]})
    for number in range(10):
        yield f"damaged {number}", _damaged(number, table({"text": [_WORDS] * 100}))


def _in_dataset(change: Change) -> Make:
    def make(sound: Sound, folder: Path) -> None:
        (folder / "stranger").mkdir()
        change(folder / "stranger" / "train.parquet")

    return make


def _in_task(change: Change) -> Make:
    """Returns a maker of a sound build, and of a folder with a task whose data are a hostile file."""

    def make(sound: Sound, folder: Path) -> None:
        sound.copy("out", folder / "stranger")
        (folder / "tasks").mkdir()
        change(folder / "tasks" / "stranger.parquet")
        (folder / "tasks" / "own.yaml").write_text(_TASK)

    return make


def archive_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    swollen = next(change for name, change in _parquets() if name == _AGAIN)
    yield from cases("parquet", _DATASET, [(f"{_AGAIN}, in a dataset", _in_dataset(swollen))])
    yield from cases("parquet", _TASKS, [(f"{_AGAIN}, in a task", _in_task(swollen))], writes=WRITES)
    for kind, file, commands, changes in (
        ("npz masks", "stranger.npz", _IMPORT, _masks()),
        ("npz inputs", "stranger.npz", _BUILD, _inputs()),
        ("parquet", "stranger.parquet", _LEARN, _parquets()),
    ):
        yield from cases(kind, commands, ((name, alone(file, change)) for name, change in changes))
        yield from cases(kind, commands, places(file))
