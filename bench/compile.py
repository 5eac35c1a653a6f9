"""Time and memory of compiling a checkpoint to hybrid ONNX, beside a plain copy of it (`make bench`).

Random masks at ratio 0.4: what is measured is export, packing and writing, which do not depend on where the tiles lie.
"""

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import covered_linears
from masklearn.maskset import LinearMask, MaskSet
from masklearn.prune import write_pruned_checkpoint
from masklearn.select import select
from masklearn.tiles import grid_shape, tile_weights
from patch_compile.compile import export_graph, write_hybrid
from patch_compile.plan.lowering import plan_linears

RATIO, TILE = 0.4, (128, 128)


def random_masks(model_dir: Path) -> MaskSet:
    """Masks of random tiles and patterns at the ratio."""
    rng = np.random.default_rng(0)
    linears = covered_linears(model_dir).linears
    scores = {name: rng.random(grid_shape(shape, TILE)) for name, shape in linears.items()}
    tiles = select(scores, {name: tile_weights(shape, TILE) for name, shape in linears.items()}, RATIO)
    masks = {
        name: LinearMask.from_candidate(TILE, tiles[name], rng.integers(0, 6, (n, k // 4)).astype(np.uint8))
        for name, (n, k) in linears.items()
    }
    return MaskSet(masks, method="random", seed=0, base_model="", base_sha256="", ratio_asked=RATIO)


def timed(what: str, work: Callable[[], object]) -> float:
    """Run, print and return seconds."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:24} {seconds:7.2f} s   peak so far {peak:.2f} GiB")
    return seconds


def main(model_dir: Path) -> None:
    """Measure the stages on one model directory."""
    checkpoint, masks = Checkpoint.open(model_dir), random_masks(model_dir)
    size = sum(file.stat().st_size for file in checkpoint.files())
    graphs = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        home = Path(folder)
        copy = timed("cp", lambda: [shutil.copyfile(f, home / f.name) for f in checkpoint.files()])
        prune = timed("pruned checkpoint", lambda: write_pruned_checkpoint(checkpoint, masks, home / "model"))
        timed("export", lambda: graphs.append(export_graph(model_dir, dtype="float16", opset=23)))
        pruned, plan = Checkpoint.open(home / "model"), plan_linears(masks)
        pack = timed(
            "pack, check and write",
            lambda: write_hybrid(graphs[0], pruned, masks, plan, home / "onnx" / "m.onnx", "float16"),
        )
    print(f"{size / 1e9:.2f} GB of weights: pruning {prune / copy:.1f} x cp, packing {pack / copy:.1f} x cp")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
