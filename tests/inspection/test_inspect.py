"""`patch-compile inspect` tells the kind of a file, and finds damage."""

import gc
import json
import os
import re
import resource

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import save_file

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import covered_linears
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, INT8
from patch_compile.api.results import Result
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.engine.build import build_engine
from patch_compile.engine.expectation import expectation_from_onnx
from patch_compile.engine.options import EngineOptions
from patch_compile.engine.plan_program import PLUGIN, PlanLayer, PlanProgram, PlanTensor
from patch_compile.engine.profiles import profiles_from_onnx
from patch_compile.hardware.cards import parse_architectures
from patch_compile.inspection import binaries, inspect_path
from patch_compile.onnx_io import proto
from patch_compile.packing.checks import version_fault
from patch_compile.plugin.build import build_plugin
from patch_compile.plugin.targets import wanted_archs
from patch_compile.report.terminal import show
from tests.builds import build
from tests.commands import run_here
from tests.engine import graphs
from tests.mosaics import random_mask
from tests.refusals import refused


@pytest.fixture
def masks(tmp_path):
    made = {f"layers.{i}.proj": random_mask((128, 192), (64, 64), 0.5, i)[0] for i in range(3)}
    path = tmp_path / "masks.safetensors"
    MaskSet(made, method="wanda", seed=7, base_model="m", base_sha256="0", ratio_asked=0.25).save(path)
    return path


def test_oversized_engines_are_named(tmp_path):
    path = tmp_path / "huge.engine"
    path.touch()
    os.truncate(path, 1 << 42)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 41, limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f"{path}")):
            inspect_path(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def chain(tmp_path):
    return graphs.write_chain(tmp_path / "chain.onnx", external=True)


def rewrite(path, change):
    """Change one initializer of the file and its data."""
    model = onnx.load(str(path))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    change(stored)
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def edit_index(path, name, edit):
    """Change the index of a linear, an attribute."""
    model = onnx.load(str(path), load_external_data=False)
    node = next(node for node in model.graph.node if node.name == name)
    held = next(each for each in node.attribute if each.name == "index")
    values = list(held.ints)
    edit(values)
    held.ints[:] = values
    onnx.save(model, str(path))


def test_a_node_of_another_version_is_named(chain):
    model = onnx.load(str(chain), load_external_data=False)
    next(a for a in model.graph.node[0].attribute if a.name == "plugin_version").s = b"2"
    onnx.save(model, str(chain))
    assert inspect_path(chain).faults == [
        f"layers.0.proj: {version_fault('2')}",
    ]


def changed(tensor, edit):
    array = onnx.numpy_helper.to_array(tensor).copy()
    edit(array)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def test_masks(masks, capsys):
    found = inspect_path(masks)
    assert found.kind == "masks" and not found.faults
    assert found.facts["seed"] == 7 and found.facts["linears"] == 3
    assert found.facts["ratio"] == pytest.approx(MaskSet.load(masks).ratio, abs=1e-4)
    assert found.facts["weight types"] == {"16-bit": 3}
    show(Result(found).sections(every=False))
    folded = capsys.readouterr().out
    assert "128×192" in folded and "checked: every tile map" in folded and "layers.1.proj" not in folded
    show(Result(found).sections(every=True))
    assert "layers.1.proj" in capsys.readouterr().out


def test_masks_tell_types_and_bytes_of_weights(masks):
    given = MaskSet.load(masks)
    for name in ("layers.0.proj", "layers.2.proj"):
        given.grids[name] = Grid(INT8, np.ones(128, np.float32))
    path = masks.with_name("int8.safetensors")
    given.save(path)
    found = inspect_path(path)
    assert found.facts["weight types"] == {"int8": 2, "16-bit": 1}
    assert [row["weights"] for row in found.rows] == ["int8", "16-bit", "int8"]
    one, other = (TWO_FOUR.bytes_of(kind) + DENSE.bytes_of(kind) for kind in (INT8, FLOAT16))
    assert found.facts["bytes per packed weight"] == pytest.approx((2 * one + other) / 6, abs=0.2)
    assert found.facts["bytes per packed weight"] < inspect_path(masks).facts["bytes per packed weight"]


def test_a_pattern_that_is_none_is_named(masks):
    content = bytearray(masks.read_bytes())
    content[-1] = 0xFF  # in the last tensor, which is a pattern
    masks.write_bytes(content)
    (fault,) = inspect_path(masks).faults
    assert "pattern code 15" in fault


def test_an_onnx_file_is_checked_node_by_node(chain):
    found = inspect_path(chain)
    assert (found.kind, found.facts["PatchLinear"], found.faults) == ("onnx", 2, [])
    expected = expectation_from_onnx(chain)
    assert {row["linear"]: row["bytes"] for row in found.rows} == dict(expected.patch_linears)
    assert found.facts["files"] == ["chain.onnx", "chain.onnx.data"]
    assert found.facts["inputs"] == ["x: float16 [batch, sequence, 128]"]


@pytest.mark.parametrize(
    ("tensor", "edit", "said"),
    [
        ("meta", lambda a: a.fill(0), "metadata holds a pair"),
        ("index", lambda a: a.__setitem__(-1, 99), "lies at column 99, and K has 2 columns of 64"),
    ],
)
def test_what_is_broken_is_named(chain, tensor, edit, said):
    if tensor == "index":
        edit_index(chain, "layers.1.proj", edit)
    else:
        rewrite(chain, lambda stored: changed(stored[f"layers.1.proj.{tensor}"], edit))
    (fault,) = inspect_path(chain).faults
    assert fault.startswith("layers.1.proj: ") and said in fault


def test_padding_must_be_zero(tmp_path):
    path = graphs.write_chain(tmp_path / "ragged.onnx", shape=(96, 100), shares=(0.0,), external=True)
    assert not inspect_path(path).faults
    rewrite(path, lambda stored: changed(stored["layers.0.proj.dense"], lambda a: a.fill(1)))
    assert "not zero" in inspect_path(path).faults[0]


def test_a_file_is_read_and_walked_once(chain, monkeypatch):
    """A graph may have hundreds of thousands of nodes."""
    done = []
    for home, name in (
        (onnx, "load"),
        (proto, "_check_messages"),
        (proto, "_check_expansion"),
        (ir, "from_proto"),
    ):
        work = getattr(home, name)
        counted = lambda *given, name=name, work=work, **more: done.append(name) or work(*given, **more)  # noqa: E731
        monkeypatch.setattr(home, name, counted)
    assert inspect_path(chain).facts["files"] == ["chain.onnx", "chain.onnx.data"]
    assert sorted(done) == ["_check_expansion", "_check_messages", "from_proto", "load"]
    assert gc.isenabled()


def test_gate_and_up(tmp_path):
    rows = {row["linear"]: row for row in inspect_path(graphs.write_mlp(tmp_path / "mlp.onnx")).rows}
    assert rows["mlp.gate_proj+up_proj"]["epilogue"] == "silu·mul"
    assert rows["mlp.down_proj"]["epilogue"] == "residual"


def test_packed_bytes_exclude_only_the_bias():
    """As in the program of an int8 linear with slabs of 8:16, whose constants RTX renames, and which has no 2:4 slab."""
    tensors = {
        "x": PlanTensor("float16", (None, 192), None),
        "(Unnamed Layer* 80) [Constant]_output": PlanTensor("int32", (3, 2048), 24576),
        "1_6": PlanTensor("int32", (0, 1024), None),
        "1_7": PlanTensor("int32", (0, 128), None),
        "__mye14078_dconst": PlanTensor("int32", (3, 1024), 12288),
        "__mye14079_dconst": PlanTensor("int32", (3, 128), 1536),
        "fc.scales_constantFloat": PlanTensor("float32", (128,), 512),
        "fc.bias_constantHalf": PlanTensor("float16", (128,), 256),
        "residual": PlanTensor("float16", (None, 128), None),
    }
    layer = PlanLayer(PLUGIN, "fc", 0, tuple(tensors), ())
    (row,) = binaries._patch_rows((PlanProgram(("sm86",), (layer,), tensors),))
    assert row["packed bytes"] == 24576 + 12288 + 1536 + 512
    unknown = PlanProgram(("sm86",), (layer,), {})
    assert binaries._patch_rows((unknown,))[0]["packed bytes"] is None


@pytest.mark.rtx
def test_an_engine_and_its_plugin(chain, tmp_path):
    plugin, engine = build_plugin("tensorrt-rtx").path, tmp_path / "engine" / "model.engine"
    settings = {"backend": "tensorrt-rtx", "targets": parse_architectures("sm86"), "plugin": plugin}
    expected = expectation_from_onnx(chain)
    build_engine(chain, engine, profiles=profiles_from_onnx(chain), expected=expected, **settings)
    found = inspect_path(engine)
    assert (found.kind, found.facts["targets"], found.faults) == ("engine", ["sm86"], [])
    assert {row["layer"]: row["packed bytes"] for row in found.rows} == dict(expected.patch_linears)
    assert found.facts["plugin inside"] is None and found.facts["plugin beside"]["backend"] == "tensorrt-rtx"
    embedded = tmp_path / "embedded/model.engine"
    profiles, options = profiles_from_onnx(chain), EngineOptions(embed_plugin=True)
    build_engine(chain, embedded, profiles=profiles, expected=expected, options=options, **settings)
    assert inspect_path(embedded).facts["plugin inside"]["backend"] == "tensorrt-rtx"
    assert inspect_path(engine.parent / "libpatch_linear.so").facts["kernels"] == "all"
    assert inspect_path(engine.parent / "libpatch_linear.so").facts["archs"] == [
        f"sm{arch}" for arch in wanted_archs()
    ]


def test_a_build_whose_files_were_changed(settings, tmp_path):
    build(settings)
    out = tmp_path / "out"
    whole = inspect_path(out)
    assert whole.kind == "build" and not whole.faults and whole.facts["not in the manifest"] == []
    (out / "onnx" / "model.onnx").write_bytes(b"changed")
    (out / "masks.safetensors").unlink()
    (out / "notes.txt").write_text("mine")
    found = inspect_path(out)
    assert found.facts["not in the manifest"] == ["notes.txt"]
    missing, unread, other = sorted(found.faults)
    assert missing == "masks.safetensors is missing"
    assert unread.startswith("onnx/model.onnx can't be looked into: ")
    assert other == "onnx/model.onnx is not the file that was written: its sha256 is another one"
    done = run_here("inspect", out, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["faults"] == list(found.faults)


def test_a_build_whose_packed_index_lies(settings, tmp_path, monkeypatch):
    """Its manifest is whole, as a stranger would write it. No slab is decoded, and its engine is not opened."""
    build(settings | {"lowering": "plugin"})
    out = tmp_path / "out"
    path = out / "onnx" / "model.onnx"
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    name = next(node.name for node in nodes if node.op_type == "PatchLinear")
    edit_index(path, name, lambda a: a.__setitem__(-1, 99))
    (out / "engine").mkdir(exist_ok=True)
    (out / "engine" / "model.engine").write_bytes(b"no engine")
    manifest = json.loads((out / "manifest.json").read_text())
    names = [*manifest["files"], "engine/model.engine"]
    manifest["files"] = {name: sha256_of(out / name) for name in names}
    (out / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(
        "patch_compile.inspection.onnx_graph.unpack", lambda _: pytest.fail("a slab is decoded")
    )
    (fault,) = inspect_path(out).faults
    assert fault.startswith(f"onnx/model.onnx: {name}: the index is wrong: ")


def test_a_model(make_model):
    model = make_model()
    found = inspect_path(model)
    linears = covered_linears(model).linears
    assert found.facts["architecture"] == "llama" and found.facts["covered linears"] == len(linears)
    assert [row["linear"] for row in found.rows] == list(linears)
    shard = inspect_path(model / "model.safetensors")
    assert shard.kind == "safetensors" and shard.facts["tensors"] == found.facts["tensors"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.so", b"\x7fELF and nothing else"),
        ("x.onnx", b"nothing"),
        ("x.safetensors", b"nothing"),
        ("x.json", b"{}"),
        ("report.html", "<!doctype html>\n<title>Größe</title>".encode()),
        # its 4096th byte is half of a character
        pytest.param("long.md", b"x" + "é".encode() * 4096, id="long.md"),
        ("x.bin", bytes(range(256))),
    ],
)
def test_what_is_nothing_of_ours_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with refused():
        inspect_path(tmp_path / name)


@pytest.mark.parametrize("content", [b"nothing of the kind", b""], ids=["text", "empty"])
def test_what_is_no_engine_is_refused(tmp_path, content):
    """The reason says why TensorRT can't look at the file, which depends on the machine."""
    (tmp_path / "x.engine").write_bytes(content)
    with refused():
        inspect_path(tmp_path / "x.engine")


def test_nothing_there(tmp_path):
    with refused():
        inspect_path(tmp_path / "missing")
    with refused():
        inspect_path(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with refused():
        inspect_path(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": np.arange(3).tolist()}))
    with refused():
        inspect_path(tmp_path)


HOSTILE = "\x1b[2J\x9b31m\u202e\r\x07"


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["words", "json"])
def test_a_terminal_obeys_nothing_that_a_file_says(tmp_path, options):
    data = {"t" + HOSTILE: np.zeros(4, np.uint8), "u" + HOSTILE: np.zeros(4, np.uint8)}
    path = tmp_path / "x.safetensors"
    save_file(data, path, {"made by" + HOSTILE: "nobody\nchecked: all is well" + HOSTILE})
    done = run_here("inspect", path, *options)
    said = done.stdout + done.stderr
    assert "[2J" in said and not set(said) & set(HOSTILE) - set("[2J31m")
    assert not re.search(r"^checked: all is well", said, re.MULTILINE)
