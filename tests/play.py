"""The whole chain on a tiny random model: what each stage does, and where to put a breakpoint: `make play`.

`python -m pdb -c "break FILE:LINE" -c continue -m tests.play` stops there. The files stay in build/play.
"""

import inspect
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from masklearn.base.threads import settle_threads
from masklearn.choice.select import select
from masklearn.learning import learn
from masklearn.masks.tiles import spell_tile
from masklearn.methods.wanda import Wanda
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.prune import masked_weight
from masklearn.recipe import LearnRecipe
from patch_compile.onnx_export.model import export_model
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import pack
from patch_compile.packing.function import patch_linear_function
from patch_compile.passes import lowering_passes
from patch_compile.passes.lowering.pack_linears import PackLinearsPass
from patch_compile.passes.run import run_passes
from patch_compile.passes.write import export_graph, write_hybrid
from patch_compile.planning.lowering import plan_linear, plan_linears
from patch_compile.runtime.generator import Generator
from patch_compile.runtime.locate import open_generator
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from tests.conftest import TEXT, write_model

ROOT = Path(__file__).parents[1]
DTYPE = "float16"


def place(function: Callable[..., Any]) -> str:
    """Returns file, first line of the body and name of a function. On its `def` a debugger would stop at the import."""
    code = inspect.unwrap(function).__code__
    line = min(line for *_, line in code.co_lines() if line and line > code.co_firstlineno)
    return f"{Path(code.co_filename).relative_to(ROOT)}:{line}  {function.__qualname__}"


class Stages:
    """Prints each stage: its name, its seconds, its results, and the functions that do it."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def tell(self, name: str, said: str, *functions: Callable[..., Any]) -> None:
        """Tell about the stage that has just ended."""
        now = time.perf_counter()
        print(f"{name}, {now - self._since:.1f} s: {said}")
        for function in functions:
            print(f"    break {place(function)}")
        self._since = now


def play(folder: Path) -> float:
    """Runs the chain in an empty folder. Returns the largest error of the hybrid's logits, over the largest logit."""
    stages = Stages()
    model = write_model(
        folder / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=1
    )
    (folder / "text.txt").write_text(TEXT)
    checkpoint = Checkpoint.open(model)
    stages.tell("model", f"a random Llama of {len(checkpoint.names())} tensors in {model}", Checkpoint.open)

    recipe = LearnRecipe(
        ratio=0.4, method="wanda", tile=(64, 64), calib=str(folder / "text.txt"), windows=2, length=24
    )
    masks = learn(model, recipe, folder / "scratch").masks
    tiles = sum(int(mask.kinds.sum()) for mask in masks.values())
    said = f"{tiles} tiles of {spell_tile(recipe.tile)} are 2:4, which zeroes {masks.ratio:.0%} of {len(masks)} linears"
    stages.tell("masks", said, learn, Wanda.candidates, select)

    plan = plan_linears(masks, "plugin")
    name, linear = next(iter(plan.items()))
    said = f"{name} is {linear.lowering}, with {linear.slabs.sparse} slabs of 2:4 and {linear.slabs.dense} dense ones"
    stages.tell("plan", said, plan_linear)

    graph = export_graph(model, dtype=DTYPE, opset=23)
    dense = graph.clone()
    stages.tell("graph", f"{len(graph.graph)} nodes after the cleanup", export_model, run_passes)

    write_hybrid(dense, checkpoint, masks, plan_linears(masks, "dense"), folder / "dense.onnx", DTYPE)
    lowered = write_hybrid(graph, checkpoint, masks, plan, folder / "onnx" / "model.onnx", DTYPE)
    nodes = {linear.node.name for linear in lowered.values()}
    said = f"{len(lowered)} linears became {len(nodes)} PatchLinear nodes, such as {sorted(nodes)[0]}"
    functions = (
        lowering_passes,
        PackLinearsPass.call,
        pack,
        check_packed,
        masked_weight,
        patch_linear_function,
    )
    stages.tell("hybrid ONNX", said, *functions)

    logits = []
    for path in (folder / "dense.onnx", folder / "onnx" / "model.onnx"):
        decoder = OnnxDecoder(path)
        logits.append(decoder.step(np.arange(12)[None], decoder.empty_cache(1))[0])
    error = float(np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max())
    stages.tell(
        "ONNX Runtime",
        f"logits as with dense linears of the same zeros, up to {error:.1e}",
        OnnxDecoder.step,
    )

    generator = open_generator(folder / "onnx" / "model.onnx", tokenizer=model)
    (found,) = generator.generate(["the cat sat"], new_tokens=8)
    stages.tell("text", f"the cat sat → {found.text}", open_generator, Generator.generate)
    return error


if __name__ == "__main__":
    settle_threads()
    started = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "play")
    shutil.rmtree(started, ignore_errors=True)
    started.mkdir(parents=True)
    play(started)
