"""Sound files, and changes of them. A maker writes an input to a folder; a change makes one file of it hostile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from patch_compile.artifacts import layout
from tests.attacks.values import dump, safetensors_of, safetensors_parts

Change = Callable[[Path], object]
Make = Callable[[Path, Path], object]
CANARY = "import os; open(os.environ['HOSTILE_CANARY'], 'w')"  # code that shows that it ran
ONNX = "stranger.onnx"
_LIBRARY = """#include <cstdio>
#include <cstdlib>
extern "C" const char kIdentity[] = "IDENTITY";
__attribute__((constructor)) static void run() {
  if (const char* canary = std::getenv("HOSTILE_CANARY")) std::fclose(std::fopen(canary, "w"));
}
"""


def alone(file: str, change: Change) -> Make:
    """Returns a maker of a file, and of the folders on its way, and nothing else."""
    return lambda sound, folder: ((folder / file).parent.mkdir(exist_ok=True), change(folder / file))


def changed(what: str, file: str, change: Change, to: str = "stranger") -> Make:
    """Returns a maker of a copy of a sound file or folder, called `to`, in which a file is changed."""

    def make(sound: Path, folder: Path) -> None:
        (shutil.copytree if (sound / what).is_dir() else shutil.copyfile)(sound / what, folder / to)
        place = folder / to / file
        place.parent.mkdir(exist_ok=True)
        change(place)
        if what == "out" and file != layout.MANIFEST and place.is_file():  # a stranger's manifest fits
            rewrite(lambda manifest: _rehash(manifest, file, place))(folder / to / layout.MANIFEST)

    return make


def _rehash(manifest: Any, name: str, file: Path) -> None:
    for files in (manifest["files"], *(stage["files"] for stage in manifest["stages"].values())):
        if name in files:
            files[name] = sha256(file.read_bytes()).hexdigest()


def in_model(file: str, change: Change) -> Make:
    return changed("model", file, change)


def in_out(file: str, change: Change) -> Make:
    return changed("out", file, change)


def write(content: Any) -> Change:
    """Returns a change to bytes, a text, or the JSON text of any other value."""
    text = content if isinstance(content, bytes | str) else dump(content)
    return lambda path: path.write_bytes(
        text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    )


def rewrite(change: Callable[[Any], object]) -> Change:
    """Returns a change of the value in a JSON file, which is changed in its place."""

    def rewritten(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        write(value)(path)

    return rewritten


def fields(**settings: Any) -> Change:
    return rewrite(lambda found: found.update(settings))


def header(change: Callable[[dict[str, Any]], object]) -> Change:
    """Returns a change of the header of a safetensors file, in its place."""

    def rewritten(path: Path) -> None:
        found, data = safetensors_parts(path.read_bytes())
        change(found)
        path.write_bytes(safetensors_of(found, data))

    return rewritten


def number(weight: str, value: float) -> Change:
    """Returns a change of all numbers of a weight."""

    def rewritten(path: Path) -> None:
        found, data = safetensors_parts(path.read_bytes())
        start, end = found[weight]["data_offsets"]
        numbers = np.full((end - start) // 4, value, "<f4").tobytes()
        path.write_bytes(safetensors_of(found, data[:start] + numbers + data[end:]))

    return rewritten


def _instead(put: Change) -> Change:
    return lambda path: (path.unlink(missing_ok=True), put(path))


def link(to: str) -> Change:
    return _instead(lambda path: path.symlink_to(to))


FIFO = _instead(os.mkfifo)


def graph(edit: Callable[[Any], Any], source: str = "model.onnx") -> Make:
    """Returns a maker of an edited ONNX model. edit: changes the protobuf in its place, or returns the file's bytes."""

    def make(sound: Path, folder: Path) -> None:
        model = onnx.load(sound / source, load_external_data=False)
        found = edit(model)
        (folder / ONNX).write_bytes(found if isinstance(found, bytes) else model.SerializeToString())
        if source == layout.ONNX or source.endswith(layout.ONNX):
            shutil.copyfile(sound / f"{source}.data", folder / "model.onnx.data")
        rows = np.random.default_rng(0).standard_normal((2, 16, 64)).astype("f4")
        np.savez(folder / "inputs.npz", x=rows)

    return make


def renamed(name: str) -> Callable[[Any], None]:
    """Returns an edit of the name of the first linear's weight."""

    def edit(model: Any) -> None:
        weight = model.graph.initializer[0]
        for node in model.graph.node:
            node.input[:] = [name if one == weight.name else one for one in node.input]
        weight.name = name

    return edit


def weight(**settings: Any) -> Callable[[Any], None]:
    """Returns an edit of the tensor of the first linear's weight."""

    def edit(model: Any) -> None:
        tensor = model.graph.initializer[0]
        for name, value in settings.items():
            if isinstance(value, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return edit


def nested_graphs(_model: Any) -> bytes:
    """Returns the bytes of a model whose graphs are nested deeper than protobuf parses."""

    def field(tag: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([tag << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(5000):
        graph = field(1, field(5, field(6, graph)))  # node, its attribute, the graph of that
    return b"\x08\x0a" + field(7, graph)


def loop(value: str, kind: int, shape: Any, operator: str) -> Callable[[Any], None]:
    """Returns an edit by which a value goes through a loop of 2**62 turns."""

    def info(name: str, shape: Any, kind: int = TensorProto.BOOL) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def edit(model: Any) -> None:
        model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
        model.graph.initializer.append(helper.make_tensor("go", TensorProto.BOOL, [], [True]))
        nodes = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node(operator, ["v"], ["w"])]
        given = [info("i", [], TensorProto.INT64), info("c", []), info("v", shape, kind)]
        body = helper.make_graph(nodes, "body", given, [info("d", []), info("w", shape, kind)])
        for node in model.graph.node:
            node.input[:] = ["looped" if name == value else name for name in node.input]
        model.graph.node.insert(0, helper.make_node("Loop", ["turns", "go", value], ["looped"], body=body))

    return edit


def patch(**attributes: Any) -> Callable[[Any], None]:
    """Returns an edit of attributes of the first PatchLinear."""

    def edit(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "PatchLinear")
        kept = [one for one in node.attribute if one.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(*item) for item in attributes.items())])

    return edit


def make_sound(root: Path) -> Path:
    """Make the sound files in a process of its own: a model, its masks and build, texts, an ONNX model, a library."""
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run([sys.executable, "-m", __name__, root], check=True, capture_output=True)
    return root


def _make(root: Path) -> None:
    from patch_compile.artifacts.folder import OutFolder
    from tests.artifacts.examples import engine_report
    from tests.builds import TINY, build
    from tests.conftest import texts_in, write_model
    from tests.plugin.identities import identity_text

    root.mkdir(parents=True)
    model, out = root / "model", root / "out"
    write_model(model, "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    short = {"tile": (32, 32), "method": "magnitude", "eval_windows": 1, "eval_length": 16}
    build({**TINY, **short, "model": model, **texts_in(root), "out": out, "ratio": 0.4})
    shutil.copyfile(out / layout.MASKS, root / "masks.safetensors")
    random = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(random.standard_normal((64, 64)).astype("f4"), name)
        for name in ("first", "second")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="first_matmul"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Gemm", ["b", "second"], ["y"], name="second_gemm", transB=1),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 64]) for name in "xy")
    made = helper.make_graph(nodes, "stranger", [x], [y], weights)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        root / "model.onnx",
    )
    # It has the identity of the plugin, and writes the canary when it is loaded.
    (root / "planted.cpp").write_text(
        _LIBRARY.replace("IDENTITY", identity_text(archs="860").decode().rstrip("\0"))
    )
    subprocess.run(["c++", "-shared", "-fPIC", "-o", root / "planted.so", root / "planted.cpp"], check=True)
    (out / layout.ENGINE_FOLDER).mkdir()  # this machine may have no TensorRT to build one
    (out / layout.ENGINE).write_bytes(b"header {\n  accelerators={sm86 }\n}\nmain {\n}\0")
    engine_report(patch_linears=7).write(out / layout.ENGINE_REPORT)
    OutFolder.open(out).record("engine", "0", [layout.ENGINE, layout.ENGINE_REPORT])


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
