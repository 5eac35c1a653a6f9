"""TensorRT-RTX builds q, k and v that share a node, and adds no kernel for the split into three."""

from collections import Counter

import pytest

from masklearn.model.checkpoint import Checkpoint
from patch_compile.engine.plan_program import PLUGIN, read_programs
from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.write import export_graph, write_hybrid
from patch_compile.planning.lowering import plan_linears
from tests.mosaics import random_mask
from tests.onnx_export.tiny import save_tiny

pytestmark = pytest.mark.rtx
LAYERS = 2
KERNELS = ("function", "runtime_function", "fully_connected")
# k and v are not whole panels, so their rows are padded, and the padding is cut off.
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": LAYERS}


@pytest.mark.parametrize(("variant", "width"), [("qwen2-mixed", 48), ("bert", 64)])
def test_no_kernel_is_added(variant, width, build_to, tmp_path):
    sizes = SIZES if variant == "bert" else SIZES | {"head_dim": width}
    source = save_tiny(variant, tmp_path / "model", **sizes)
    graph = export_graph(source, dtype="float16", opset=23)
    blocks = {n: site for n, site in lowerable_linears(graph).items() if "layer" in n}
    masks = {n: random_mask(site.shape, (64, 64), 0.9, i)[0] for i, (n, site) in enumerate(blocks.items())}
    plan, counts = plan_linears(masks), []
    for name, fuse in (("apart", [f for f in FUSIONS if f != "qkv"]), ("together", tuple(FUSIONS))):
        path = tmp_path / f"{name}.onnx"
        write_hybrid(graph.clone(), Checkpoint.open(source), masks, plan, path, "float16", fuse=fuse)
        engine = path.with_suffix(".engine")
        build_to(path, engine)
        layers = Counter(layer.kind for program in read_programs(engine) for layer in program.layers)
        counts.append((layers[PLUGIN], sum(layers[kind] for kind in KERNELS)))
    (plugins, kernels), together = counts
    profiles = 1 if variant == "bert" else 2
    assert together == (plugins - 2 * LAYERS * profiles, kernels)
