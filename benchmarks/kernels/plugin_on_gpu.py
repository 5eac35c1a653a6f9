"""Drives the TensorRT plugin's class on this machine's GPU as TensorRT would, without TensorRT.

    python benchmarks/kernels/plugin_on_gpu.py

Needs PyTorch and numpy, and nvcc unless PATCH_BENCH_LIBRARY names a library that build_library.py built. Every result is
compared with float64:

  beside       a context is made and prepared, and another ends, while another thread captures a graph
  shapes       1, many and 1 tokens in one context
  graphs       captured, replayed many times with changing X; the same bits from moved buffers
  together     two contexts on two streams at once
  contexts     the same in a second CUDA context, then again in the first

Each linear is driven with the plugin's kernels and, if this GPU has a dense path, with that too, in a process of its own
that ends after two minutes. Prints a line for each step. Exit code 1 when a result is wrong or a process did not end well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from build_library import LIBRARY, library_for
from cuda_calls import Cuda
from kernels import KIND_COUNT
from numpy.typing import NDArray
from plugin_contexts import Asked, Context, Engine, Wrong, open_context
from plugin_driver import DENSE_PATH_TACTIC, PluginDriver

_DEADLINE = 120.0  # seconds of a linear's process; on an H100 it should take 10
_DENSE_TOKENS = (512, 1024, 2048, 4096, 8192)  # the first that the dense path is taken for is driven
_PROMPT, _REPLAYS = 300, 100  # tokens; launches of a graph
_ROUNDS = 20  # launches of each of two contexts at once


LINEARS = (
    Asked("plain", 128, torch.float16, (512, 1024)),
    Asked("ragged", 128, torch.bfloat16, (1064, 1032), turn=5),
    Asked("gated", 64, torch.bfloat16, (256, 1024), gated=True, turn=3),
    Asked("all-kinds", 64, torch.float16, (256, 1024), kinds=KIND_COUNT, turn=2),
    Asked("int8", 64, torch.float16, (256, 1024), kinds=KIND_COUNT, weights=1, turn=1),
    Asked("int4", 64, torch.bfloat16, (256, 1024), kinds=KIND_COUNT, weights=3, turn=5),
)


class Run(NamedTuple):
    """Arguments of a step. captured: the context that another thread captures; many: tokens of a prompt; replays: of a
    graph."""

    engine: Engine
    captured: Engine
    cuda: Cuda
    many: int
    replays: int


def _shapes(run: Run) -> float:
    engine, cuda, worst = run.engine, run.cuda, 0.0
    with open_context(engine, cuda) as context:
        for turn, tokens in enumerate((1, run.many, 1)):
            context.place(engine.given(tokens, turn))
            context.shapes()
            context.enqueue()
            worst = max(worst, context.error())
    return worst


def _graphs(run: Run) -> float:
    engine, cuda, worst = run.engine, run.cuda, 0.0
    with open_context(engine, cuda) as context:
        for tokens in (1, run.many):
            context.place(engine.given(tokens))
            context.shapes()
            cuda.begin_capture(context.stream)
            context.enqueue()
            graph, nodes = cuda.end_capture(context.stream)
            if (nodes > 1) != engine.runs_dense_path(tokens):
                raise Wrong(f"the graph of {tokens} tokens has {nodes} nodes")
            for seed in (1, 2):
                context.change_x(engine.given(tokens, seed))
                worst = max(worst, _replayed(context, graph, cuda, run.replays // 2))
            cuda.free_graph(graph)
            before = context.answer()
            context.place(context.given)
            context.forget()
            context.enqueue()
            _same(context.answer(), before, "from moved buffers")
    return worst


def _replayed(context: Context, graph: int, cuda: Cuda, replays: int) -> float:
    first = None
    for _ in range(replays):
        context.forget()
        cuda.launch(graph, context.stream)
        y = context.answer()
        _same(y, y if first is None else first, "from another replay")
        first = y
    return context.error()


def _beside(run: Run) -> float:
    engine, cuda = run.engine, run.cuda
    with (
        ThreadPoolExecutor(1) as thread,
        open_context(run.captured, cuda) as captured,
        cuda.stream() as stream,
    ):
        captured.place(run.captured.given(1))
        captured.shapes()
        captured.enqueue()  # loads the kernel, as an application does before it captures
        worst = captured.error()

        def attach() -> Context:
            made = Context(engine, cuda, stream)
            made.given = engine.given(run.many)
            made.shapes()
            return made

        worst = max(worst, _beside_capture(captured, cuda, thread, attach))
        second = Context(engine, cuda, stream)
        return max(worst, _beside_capture(captured, cuda, thread, second.detach))


def _beside_capture(captured: Context, cuda: Cuda, thread: Executor, act: Callable[[], Any]) -> float:
    """Act while another thread captures; then replay the captured graph, and use the result of the action."""
    thread.submit(cuda.begin_capture, captured.stream).result()
    made = act()
    thread.submit(captured.enqueue).result()
    graph, _ = thread.submit(cuda.end_capture, captured.stream).result()
    captured.forget()
    cuda.launch(graph, captured.stream)
    worst = captured.error()
    cuda.free_graph(graph)
    if isinstance(made, Context):
        made.place(made.given)
        made.enqueue()
        worst = max(worst, made.error())
        made.close()
    return worst


def _together(run: Run) -> float:
    engine, cuda, worst = run.engine, run.cuda, 0.0
    with open_context(engine, cuda) as one, open_context(engine, cuda) as other:
        for tokens in (1, run.many):
            for seed, context in enumerate((one, other)):
                context.place(engine.given(tokens, seed))
                context.shapes()
            for _ in range(min(_ROUNDS, run.replays)):
                one.enqueue()
                other.enqueue()
            worst = max(worst, one.error(), other.error())
    return worst


def _contexts(run: Run) -> float:
    engine, cuda = run.engine, run.cuda
    with open_context(engine, cuda) as first:
        first.place(engine.given(run.many))
        first.shapes()
        with cuda.second_context():
            worst = max(_shapes(run), _graphs(run._replace(replays=2)))
        first.enqueue()
        return max(worst, first.error())


# "beside" comes first: the dense path then makes its handle of cuBLASLt during a capture.
_STEPS = {
    "beside": _beside, "shapes": _shapes, "graphs": _graphs, "together": _together, "contexts": _contexts
}  # fmt: skip


def _same(y: NDArray[np.int16], before: NDArray[np.int16], what: str) -> None:
    if not np.array_equal(y, before):
        raise Wrong(f"Y {what} has other bits")


def drive(
    driver: PluginDriver,
    asked: Asked,
    many: int,
    replays: int,
    dense_tokens: Sequence[int] = _DENSE_TOKENS,
) -> Iterator[tuple[str, float | None]]:
    """Drive a linear; yields each step and its largest error in units of the allowed error, None for a step that is left
    out.

    many: tokens of a prompt; replays: launches of a graph; dense_tokens: the dense path is driven with the first number that
    it is taken for. Raises Wrong for a wrong answer, and CudaError.
    """
    cuda = driver.cuda()
    kernels = Engine(driver, asked, 0, many)
    engines = [(kernels, many)]
    dense = next((tokens for tokens in dense_tokens if kernels.takes_dense_path(tokens)), None)
    if dense is None:
        yield f"{asked.name}: this GPU has no dense path, or no cuBLASLt", None
    else:
        engines.append((Engine(driver, asked, DENSE_PATH_TACTIC, dense), dense))
    for engine, tokens in engines:
        path = "dense path" if engine.dense else "kernels"
        for name, step in _STEPS.items():
            yield (
                f"{asked.name}, {path}, {tokens} tokens: {name}",
                step(Run(engine, kernels, cuda, tokens, replays)),
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Drive the linears and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # How this program asks a process for a linear.
    parser.add_argument("--linear", choices=[linear.name for linear in LINEARS], help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if LIBRARY not in os.environ:  # which the processes of the linears inherit
        found = torch.cuda.get_device_properties(0)
        os.environ[LIBRARY] = str(library_for(f"sm_{found.major}{found.minor}", plugin=True))
    library = Path(os.environ[LIBRARY])
    try:
        driver = PluginDriver(library)
        driver.cuda()
    except (OSError, AttributeError) as error:  # no driver of NVIDIA, or a library of something else
        print(f"error: {library} can't be used here: {error}", file=sys.stderr)
        return 1
    if asked.linear is None:
        return max(_in_a_process(linear.name) for linear in LINEARS)
    (linear,) = (one for one in LINEARS if one.name == asked.linear)
    return _print_steps(drive(driver, linear, _PROMPT, _REPLAYS))


def _in_a_process(linear: str) -> int:
    try:
        done = subprocess.run([sys.executable, __file__, "--linear", linear], timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        print(f"wrong: {linear} did not end in {_DEADLINE:.0f} s", flush=True)
        return 1
    if done.returncode not in (0, 1):
        print(f"wrong: the process of {linear} ended with code {done.returncode}", flush=True)
    return int(done.returncode != 0)


def _print_steps(steps: Iterator[tuple[str, float | None]]) -> int:
    code = 0
    try:
        for name, worst in steps:
            right = worst is None or worst <= 1.0
            code |= not right
            said = name if worst is None else f"{name}: {worst:.2f} of the allowed error"
            print(f"{'ok' if right else 'wrong'}: {said}", flush=True)
    except RuntimeError as error:
        print(f"wrong: the step after these failed: {error}", flush=True)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
