"""Measures time and memory of compiling a large checkpoint to hybrid ONNX and to an engine, compared with `cp` of its files.

    python -m benchmarks.compile [--shape llama-2-7b] [--ratio 0.4] [--engine | --proof] [--page FILE]

Writes a checkpoint of seeded random weights and random masks of the ratio, and runs `patch-compile compile` on them in a
process of its own. The figures do not depend on where the tiles lie. `cp` runs before and after it; each run begins with
the checkpoint out of the page cache and ends when all is on the disk. With `--engine` another process then builds an
engine for sm86 from the hybrid ONNX. With `--proof` it measures `patch-compile build --method magnitude --backend onnx`
in limited memory instead, which ends with the proof. Prints the figures and renews its part of a page, such as
docs/explanation/performance.md; exit code 1 when a figure is beyond its limit.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.checkpoints import SHAPES, write_checkpoint, write_tokenizer
from benchmarks.machine import machine
from benchmarks.measured_command import watched
from benchmarks.page_part import renewed
from masklearn import (
    Checkpoint,
    LearnRecipe,
    LinearMask,
    MaskSet,
    covered_linears,
    grid_shape,
    select,
    tile_weights,
)
from patch_compile import build_plugin
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import choose_panel_rows, pack

TARGET = "sm86"


@dataclass(frozen=True)
class Measurement:
    """A measured number and its limit: the largest value, or with `least` the smallest; None: no limit."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    least: bool = False

    @property
    def met(self) -> bool:
        """True when the figure is within its limit."""
        return self.limit is None or (self.value >= self.limit if self.least else self.value <= self.limit)

    def row(self) -> str:
        """Row of the table in Markdown."""
        limit = "" if self.limit is None else f"{'≥' if self.least else '≤'} {self.limit:g} {self.unit}"
        return f"| {self.what} | {self.value:.3g} {self.unit} | {limit}{'' if self.met else ' **missed**'} |"


def random_masks(model_dir: Path, ratio: float) -> MaskSet:
    """Masks of random tiles and patterns at the ratio."""
    rng, tile = np.random.default_rng(0), LearnRecipe().tile
    linears = covered_linears(model_dir).linears
    scores = {name: rng.random(grid_shape(shape, tile)) for name, shape in linears.items()}
    tiles = select(scores, {name: tile_weights(shape, tile) for name, shape in linears.items()}, ratio)
    masks = {
        name: LinearMask.from_candidate(tile, tiles[name], rng.integers(0, 6, (n, k // 4), np.uint8))
        for name, (n, k) in linears.items()
    }
    return MaskSet(masks, method="random", seed=0, base_model="", base_sha256="", ratio_asked=ratio)


def copy_seconds(checkpoint: Checkpoint, folder: Path) -> float:
    """Seconds that `cp` of the checkpoint's files takes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _forget(checkpoint)
    start = time.perf_counter()
    subprocess.run(["cp", *map(str, checkpoint.files()), str(folder)], check=True)
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def compile_figures(model: Path, masks: Path, out: Path, scratch: Path) -> list[Measurement]:
    """Figures of `patch-compile compile`, with `cp` before and after it."""
    checkpoint = Checkpoint.open(model)
    size = sum(file.stat().st_size for file in checkpoint.files()) / 1e9
    copies = [copy_seconds(checkpoint, scratch / "copy")]
    _forget(checkpoint)
    command = [sys.executable, "-m", "patch_compile", "compile", str(model), "--mask", str(masks)]
    run = watched([*command, "-o", str(out), "--lowering", "plugin", "--force", "--json"])
    start = time.perf_counter()
    os.sync()
    synced = time.perf_counter() - start
    copies.append(copy_seconds(checkpoint, scratch / "copy"))
    found = json.loads(run.stdout)
    pack = found["seconds"]["pack"] + synced
    packed = sum(linear["lowering"] == "plugin" for linear in found["linears"])
    return [
        Measurement("checkpoint", size, "GB"),
        Measurement("hybrid ONNX", found["onnx"]["bytes"] / 1e9, "GB"),
        Measurement(f"linears packed, of {len(found['linears'])}", packed, ""),
        Measurement("`cp` of the checkpoint, median of two", median(copies), "s"),
        Measurement("export", found["seconds"]["export"], "s", 20.0),
        Measurement("packing, checking and writing", pack, "s"),
        Measurement("the same over `cp`", pack / median(copies), "", 4.0),
        Measurement("the same, of checkpoint", size / pack, "GB/s"),
        Measurement("`cp`, of checkpoint", size / median(copies), "GB/s"),
        Measurement("only packing and checking, from memory", packing_rate(masks), "GB/s", 0.5, least=True),
        Measurement(
            "the whole command, with the hashes of the files that it read and wrote",
            run.seconds + synced,
            "s",
        ),
        Measurement("peak resident memory", run.peak_gib, "GiB", 1.5),
    ]


def proof_figures(model: Path, out: Path, ratio: float, most_gib: float) -> list[Measurement]:
    """Figures of `patch-compile build` in so much memory. Its proof takes nearly all of its time."""
    words = Checkpoint.open(model).config["vocab_size"]
    write_tokenizer(model, words)
    text = model.with_name("text.txt")
    letters = np.random.default_rng(0).choice(list("abcdefghij "), _TEXT)
    text.write_text("".join(letters))
    chosen = [
        "--method",
        "magnitude",
        "--repair",
        "none",
        "--kinds",
        "2:4",
        "--lowering",
        "plugin",
        "--backend",
        "onnx",
    ]
    command = [sys.executable, "-m", "patch_compile", "build", str(model), *chosen]
    command += ["--ratio", str(ratio), "--eval", str(text)]
    windows = ["--eval-windows", str(_WINDOWS), "--eval-length", str(_LENGTH)]
    size = Checkpoint.open(model).bytes()
    run = watched([*command, *windows, "-o", str(out), "--force", "--json"], most_gib, size / 2**30)
    found = json.loads(run.stdout)
    seconds, proof = found["seconds"], ("hybrid on ONNX Runtime", "pruned reference", "dense reference")
    return [
        Measurement("checkpoint", size / 1e9, "GB"),
        Measurement("windows of text", found["perplexity"]["on"]["windows"], ""),
        Measurement("tokens in a window", found["perplexity"]["on"]["length"], ""),
        Measurement("error of the hybrid, of the largest logit", found["agreement"]["error"], ""),
        Measurement("masks", seconds["masks"], "s"),
        *(Measurement(f"proof: {name}", seconds[name], "s") for name in (*proof, "pruned against dense")),
        Measurement("the whole command", run.seconds, "s"),
        Measurement("peak anonymous memory", run.peak_anonymous_gib, "GiB", most_gib),
        Measurement("peak resident memory, with mapped files", run.peak_gib, "GiB"),
    ]


_TEXT, _WINDOWS, _LENGTH = 4096, 2, 256  # letters, each a token; windows and their tokens


def packing_rate(masks: Path) -> float:
    """GB of fp16 weights packed and checked per second, without the disk: median of 5 on the largest linear."""
    mask_set = MaskSet.load(masks)
    mask = mask_set[max(mask_set, key=lambda name: math.prod(mask_set.shapes()[name]))]
    weight = np.random.default_rng(0).integers(0, 2**16, mask.shape, np.uint16)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        packed = pack(weight, mask, choose_panel_rows(mask.shape, mask.tile))
        check_packed("the largest linear", packed, weight, mask)
        seconds.append(time.perf_counter() - start)
    return float(weight.nbytes) / 1e9 / median(seconds[1:])  # the first call compiles the loops


def engine_figures(out: Path, engine: Path) -> list[Measurement]:
    """Figures of building an engine from the ONNX file of `out` with TensorRT-RTX."""
    command = [sys.executable, "-m", "benchmarks.compile", "--build", str(out / "onnx" / "model.onnx")]
    run = watched([*command, "--to", str(engine)])
    built = json.loads(run.stdout.splitlines()[-1])
    left = [file.name for file in engine.parent.iterdir() if file.name not in _ENGINE_FILES]
    return [
        Measurement("engine", built["bytes"] / 1e9, "GB"),
        Measurement("building and checking it", built["seconds"], "s"),
        Measurement("peak anonymous memory of the build", run.peak_anonymous_gib, "GiB", 12.0),
        Measurement("other files left by it", len(left), "", 0.0),
    ]


_ENGINE_FILES = ("model.engine", "libpatch_linear.so")


def build(onnx: Path, engine: Path) -> dict[str, Any]:
    """Build as `patch-compile build` does, and return the report."""
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures

    backend = "tensorrt-rtx"
    report = build_engine(
        onnx,
        engine,
        backend=backend,
        targets=parse_architectures(TARGET),
        profiles=profiles_from_onnx(onnx, None, None, None),
        plugin=build_plugin(backend).path,
        expected=expectation_from_onnx(onnx),
    )
    return report.as_json()


def page_part(shape: str, ratio: float, figures: Sequence[Measurement]) -> str:
    """The figures as a part of a page."""
    names = ("numpy", "numba", "torch", "onnx-ir", "onnxruntime", "tensorrt-rtx-cu13")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    rows = "\n".join(figure.row() for figure in figures)
    return (
        f"{shape}, random weights and masks at ratio {ratio:g}; {machine()}, "
        f"{date.today()}, Python {platform.python_version()}, {versions}.\n\n"
        f"| what | measured | limit |\n| --- | --- | --- |\n{rows}"
    )


def _forget(checkpoint: Checkpoint) -> None:
    """Drop the files from the page cache, so that the next reader reads the disk."""
    os.sync()
    for file in checkpoint.files():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--blocks", type=int, help="fewer blocks than the shape has")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of memory that --proof may take")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--engine", action="store_true", help="build an engine too")
    only.add_argument("--proof", action="store_true", help="measure a build with its proof")
    parser.add_argument("--page", type=Path, help="renew its part of this page")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/compile"), help="removed at the end")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)  # for the child process
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write checkpoint and masks, measure, print, and renew the page."""
    asked = arguments(argv)
    if asked.build is not None:
        print(json.dumps(build(asked.build, asked.to)))
        return 0
    home = asked.scratch / asked.shape
    shutil.rmtree(home, ignore_errors=True)
    try:
        print(f"writing a checkpoint of the shape {asked.shape} …", file=sys.stderr)
        blocks = {"num_hidden_layers": asked.blocks} if asked.blocks else {}
        write_checkpoint(home / "model", SHAPES[asked.shape] | blocks)
        if asked.proof:
            figures = proof_figures(home / "model", home / "out", asked.ratio, asked.memory)
        else:
            random_masks(home / "model", asked.ratio).save(home / "masks.safetensors")
            figures = compile_figures(home / "model", home / "masks.safetensors", home / "out", home)
        if asked.engine:
            figures += engine_figures(home / "out", home / "engine" / "model.engine")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    shape = f"{asked.shape}, {asked.blocks} blocks" if asked.blocks else asked.shape
    part = page_part(shape, asked.ratio, figures)
    if asked.page:
        name = "proof" if asked.proof else "compile"
        asked.page.write_text(renewed(asked.page.read_text(), name, part))
    print(part)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
