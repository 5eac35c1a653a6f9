"""Writes a Triton model repository from a build: `python samples/triton_server/make_repository.py OUT REPOSITORY`.

Writes REPOSITORY/NAME for OUT/engine (TensorRT) and REPOSITORY/NAME-onnx for the ONNX file (ONNX Runtime), each with its
config.pbtxt and version 1. NAME is the name of OUT, or `--name`. `build` or `compile` wrote OUT.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from patch_compile import PatchCompileError

_T = onnx.TensorProto
# The table "Datatypes" of Triton's model_configuration.md.
_TYPES = {
    _T.BOOL: "BOOL", _T.UINT8: "UINT8", _T.UINT16: "UINT16", _T.UINT32: "UINT32", _T.UINT64: "UINT64",
    _T.INT8: "INT8", _T.INT16: "INT16", _T.INT32: "INT32", _T.INT64: "INT64", _T.FLOAT16: "FP16",
    _T.FLOAT: "FP32", _T.DOUBLE: "FP64", _T.STRING: "STRING", _T.BFLOAT16: "BF16",
}  # fmt: skip


def make_repository(out: Path, repository: Path, name: str | None = None) -> tuple[list[Path], list[str]]:
    """Write the models of OUT that Triton can load. Returns their folders, and a message for each model left out.

    Raises PatchCompileError if OUT has no ONNX file, if the repository already has a model of the name, or if Triton can
    load none of the models.
    """
    name = name or out.resolve().name
    if Path(name).name != name or name == "..":
        raise PatchCompileError(
            f"{name!r} cannot be the name of a model", "A model is one folder of the repository."
        )
    onnx_file = out / "onnx" / "model.onnx"
    if not onnx_file.is_file():
        raise PatchCompileError(
            f"{out} is not an OUT of patch-compile",
            f"There is no {onnx_file}.",
            "Give the folder of a build.",
        )
    model = _load(onnx_file)
    wanted: list[tuple[str, str, Callable[[Path], None]]] = []
    left_out: list[str] = []
    engine = _engine(out)
    if against := _against_engine(out, engine):
        left_out.append(against)
    else:
        profiles = len(engine["profiles"])
        wanted.append(
            (name, config(name, model.graph, "tensorrt_plan", profiles), lambda at: _place_engine(out, at))
        )
    if _T.BFLOAT16 in _element_types(model):
        left_out.append("no ONNX Runtime model: Triton's ONNX Runtime backend has no bfloat16")
    else:
        twin = f"{name}-onnx"
        wanted.append(
            (twin, config(twin, model.graph, "onnxruntime_onnx"), lambda at: _copy_onnx(onnx_file, at))
        )
    if not wanted:
        raise PatchCompileError(
            f"{out} holds nothing that Triton loads", "; ".join(left_out), "Build it with --backend tensorrt."
        )
    return _write_all(repository, wanted), left_out


def config(name: str, graph: onnx.GraphProto, platform: str, profiles: int = 0) -> str:
    """Returns the config.pbtxt for the inputs and outputs of a graph.

    max_batch_size is 0, so that a request sets every axis: Triton can't batch requests that differ in length, each with
    its own cache. profiles: number of the engine's profiles. They are listed, because Triton otherwise knows only the
    first; it chooses the profile that fits a request.
    """
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    lines = [f"name: {json.dumps(name)}", f'platform: "{platform}"', "max_batch_size: 0"]
    lines += [f"input {_tensor(value)}" for value in inputs]
    lines += [f"output {_tensor(value)}" for value in graph.output]
    if profiles > 1:
        listed = ", ".join(f'"{i}"' for i in range(profiles))
        lines.append(f"instance_group {{ count: 1 kind: KIND_GPU profile: [ {listed} ] }}")
    return "\n".join(lines) + "\n"


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError shares no public base class with onnx's errors
        raise PatchCompileError(f"{path} is not an ONNX model", str(error), "Build again.") from None


def _tensor(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TYPES:
        kind = _T.DataType.Name(tensor.elem_type)
        raise PatchCompileError(f"{value.name} is {kind}", "Triton has no such type.")
    if not tensor.HasField("shape"):
        raise PatchCompileError(f"{value.name} has no shape", "Triton needs to know its rank.")
    sizes = [str(d.dim_value) if d.HasField("dim_value") else "-1" for d in tensor.shape.dim]
    # Triton allows no empty dims: a scalar is sent as [ 1 ].
    dims = f"dims: [ {', '.join(sizes)} ]" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
    return f"{{ name: {json.dumps(value.name)} data_type: TYPE_{_TYPES[tensor.elem_type]} {dims} }}"


def _element_types(model: onnx.ModelProto) -> set[int]:
    values = [*model.graph.input, *model.graph.output]
    return {v.type.tensor_type.elem_type for v in values} | {t.data_type for t in model.graph.initializer}


def _engine(out: Path) -> dict[str, Any]:
    """Returns the engine's backend, version and profiles from report.json, {} without an engine."""
    report = out / "report.json"
    if not report.is_file():  # `compile` writes none
        return {}
    try:
        entry = json.loads(report.read_text())["engine"] or {}
        return {key: entry[key] for key in ("backend", "version", "profiles")} if entry else {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PatchCompileError(
            f"{report} is not a report of patch-compile", f"{type(error).__name__}: {error}", "Build again."
        ) from None


def _against_engine(out: Path, engine: dict[str, Any]) -> str | None:
    path = out / "engine" / "model.engine"
    if not engine:
        return "no TensorRT model: the build has no engine"
    if engine["backend"] != "tensorrt":
        return (
            f"no TensorRT model: {path} is of {engine['backend']} {engine['version']}, which Triton's TensorRT backend"
            " does not load; build it with --backend tensorrt on a machine with a GPU"
        )
    if not path.is_file():
        raise PatchCompileError(f"{path} is missing", "report.json says that it was built.", "Build again.")
    return None


def _write_all(repository: Path, wanted: Iterable[tuple[str, str, Callable[[Path], None]]]) -> list[Path]:
    """Write each model atomically, because a Triton that polls the repository must not see half a model."""
    wanted = list(wanted)
    for name, _, _ in wanted:
        if (repository / name).exists():
            raise PatchCompileError(
                f"{repository / name} exists", fix="Remove it, or give another --name or REPOSITORY."
            )
    repository.mkdir(parents=True, exist_ok=True)
    written = []
    # Not inside the repository, where Triton would take it for a model, but next to it, so that files can be linked.
    with tempfile.TemporaryDirectory(dir=repository.resolve().parent, prefix=".triton-") as scratch:
        for name, text, place in wanted:
            version = Path(scratch) / name / "1"
            version.mkdir(parents=True)
            place(version)
            (version.parent / "config.pbtxt").write_text(text)
            written.append(version.parent.rename(repository / name))
    return written


def _place_engine(out: Path, version: Path) -> None:
    _link(out / "engine" / "model.engine", version / "model.plan")
    plugin = out / "engine" / "libpatch_linear.so"
    if plugin.is_file():  # for LD_PRELOAD; Triton itself reads only model.plan
        _link(plugin, version / plugin.name)


def _copy_onnx(onnx_file: Path, version: Path) -> None:
    """Copy the ONNX file and its data. A model of several files is a folder (Triton's model_repository.md).

    Not hard links: onnx refuses external data with more than one hard link, so that OUT could not be loaded either.
    """
    (version / "model.onnx").mkdir(parents=True)
    for file in onnx_file.parent.glob(f"{onnx_file.name}*"):  # other programs' files lie next to it
        shutil.copy2(file, version / "model.onnx")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or a file system without hard links
        shutil.copyfile(source, target)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Prints written models on stdout and messages on stderr. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Write a Triton model repository from an OUT of patch-compile."
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("repository", type=Path, metavar="REPOSITORY")
    parser.add_argument("--name", help="name of the models [name of OUT]")
    given = parser.parse_args(arguments)
    try:
        written, left_out = make_repository(given.out, given.repository, given.name)
    except PatchCompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for reason in left_out:
        print(reason, file=sys.stderr)
    for folder in written:
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
