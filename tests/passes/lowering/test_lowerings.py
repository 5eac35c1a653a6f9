"""Three lowerings of a whole model give the same logits, and engines keep the parts of a split separate."""

from collections import Counter

import numpy as np
import onnx
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.prune import write_pruned_checkpoint
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.passes.write import write_dense, write_hybrid
from patch_compile.planning.lowering import plan_linears
from patch_compile.planning.split import PART
from patch_compile.report.verify import sparsity_words
from tests.mosaics import random_mask
from tests.onnx_export.conftest import exports  # noqa: F401  (the session's exported graphs)
from tests.onnx_export.tiny import LAYERS, OrtDecoder, tolerance
from tests.passes.lowering.test_split_linears import free_products  # noqa: F401  (else no product is worth its launch)

IDS = np.arange(12)[None] % 100


def masks_for(model_dir, tile=(32, 32), share=0.7):
    linears = covered_linears(model_dir).linears
    masks = {n: random_mask(shape, tile, share, seed)[0] for seed, (n, shape) in enumerate(linears.items())}
    return MaskSet(masks, method="random", seed=0, base_model="tiny", base_sha256="", ratio_asked=share / 2)


def planned(masks, lowering):
    """The plan with every linear lowered by `lowering`, or by all three in turn for "mixed"."""
    cycle = {"mixed": ("split", "plugin", "dense")}.get(lowering, (lowering,))
    plans = {}
    for i, (name, plan) in enumerate(plan_linears(masks).items()):
        asked = cycle[i % len(cycle)]
        plans[name] = plan if asked == "plugin" else plan.changed(lowering=asked)
    return plans


def logits(path):
    return OrtDecoder(runnable_onnx(path, path.parent)).start(IDS, np.ones_like(IDS))


@pytest.fixture(scope="module")
def model(exports, tmp_path_factory):  # noqa: F811
    """Returns, for a variant and dtype, its checkpoint, its masks and the logits of the pruned checkpoint."""
    made = {}

    def make(variant, dtype):
        if (variant, dtype) not in made:
            folder = tmp_path_factory.mktemp(f"{variant}-{dtype}")
            source = Checkpoint.open(exports.model_dir(variant))
            masks = masks_for(source.path)
            write_pruned_checkpoint(source, masks, folder / "model")
            pruned, graph = Checkpoint.open(folder / "model"), exports.graph(variant, dtype=dtype)
            write_dense(graph, pruned, folder / "dense.onnx", dtype)
            made[variant, dtype] = source, masks, logits(folder / "dense.onnx")
        return made[variant, dtype]

    return make


@pytest.mark.parametrize(
    ("variant", "dtype"), [("llama", "float16"), ("llama", "bfloat16"), ("qwen2-mixed", "float16")]
)
@pytest.mark.parametrize("lowering", ["plugin", "split", "dense", "mixed"])
def test_a_model_gives_the_same_logits(model, exports, variant, dtype, lowering, tmp_path):  # noqa: F811
    """The lowerings mask the weights of the unpruned checkpoint themselves."""
    source, masks, expected = model(variant, dtype)
    path, plan = tmp_path / "hybrid.onnx", planned(masks, lowering)
    graph, steps = exports.graph(variant, dtype=dtype), []
    compiled = write_hybrid(graph, source, masks, plan, path, dtype, lambda *step: steps.append(step[1:]))
    assert steps == [(done, len(plan)) for done in range(1, len(plan) + 1)]

    onnx.checker.check_model(str(path), full_check=True)
    nodes = onnx.load(path, load_external_data=False).graph.node
    wanted = Counter(linear.lowering for linear in plan.values())
    parts = Counter(entry.value for node in nodes for entry in node.metadata_props if entry.key == PART)
    splits = [linear.split for linear in compiled.values() if linear.split]
    assert len(splits) == wanted["split"]
    assert sum(parts.values()) == sum(split.products for split in splits)
    assert bool(parts["sparse"]) == bool(wanted["split"])
    assert any(node.op_type == "PatchLinear" for node in nodes) == bool(wanted["plugin"])

    roundoff = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    np.testing.assert_allclose(logits(path), expected, atol=tolerance(expected, LAYERS, roundoff))
    assert np.abs(expected).max() > 0.1


def test_dense_writes_the_masked_weight(model, exports, tmp_path):  # noqa: F811
    source, masks, _ = model("llama", "float16")
    graph, plan = exports.graph("llama", dtype="float16"), planned(masks, "dense")
    write_hybrid(graph, source, masks, plan, tmp_path / "m.onnx", "float16")
    written = {tensor.name: tensor for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    for name, mask in masks.items():
        weight = onnx.numpy_helper.to_array(written[f"{name}.weight"])
        source_weight = source.read(f"{name}.weight").astype(np.float16)
        np.testing.assert_array_equal(weight, np.where(mask.keep(), source_weight, 0))


@pytest.mark.rtx
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rtx_keeps_the_parts_apart(model, exports, dtype, tmp_path):  # noqa: F811
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.plan_program import PLUGIN, read_programs
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures

    source, masks, _ = model("llama", dtype)
    path, engine = tmp_path / "hybrid.onnx", tmp_path / "model.engine"
    graph = exports.graph("llama", dtype=dtype)
    write_hybrid(graph, source, masks, planned(masks, "split"), path, dtype)
    expected = expectation_from_onnx(path)
    assert len(expected.sparse_parts) > LAYERS

    report = build_engine(
        path,
        engine,
        backend="tensorrt-rtx",
        targets=parse_architectures("sm86"),
        profiles=profiles_from_onnx(path),
        plugin=None,
        expected=expected,
    )
    assert report.sparse_parts == len(expected.sparse_parts)
    assert f"the {report.sparse_parts} 2:4 GEMMs of split linears run densely" in sparsity_words(report)
    layers = [layer for program in read_programs(engine) for layer in program.layers]
    assert not [layer for layer in layers if layer.kind == PLUGIN]
    found = {(node, layer.profile) for layer in layers for node in layer.onnx_nodes}
    assert {(name, profile) for name in expected.sparse_parts for profile in (0, 1)} <= found
