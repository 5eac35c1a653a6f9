"""Options that several commands share, in groups; their defaults are those of the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from masklearn.traits import METHODS, Criterion
from patch_compile.packing.fusion import FUSIONS

__all__ = [
    "PATH",
    "Tile",
    "covering",
    "engine",
    "evaluation",
    "fusing",
    "given",
    "graph",
    "learning",
    "lowering",
    "planning",
    "proof",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


class Tile(click.ParamType[tuple[int, int]]):
    """A tile size as a command takes it: see `parse_tile`."""

    name = "ROWSxCOLS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Rows and columns; a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        from masklearn.masks.tile_text import parse_tile

        try:
            return parse_tile(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def apply(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


covering = _options(
    click.option("--include", multiple=True, metavar="PATTERN", help="Cover only linears that match. A PATTERN, here and in "
                 "other options, is a name or its end from a dot on (v_proj), a glob of such (mlp.*), or re: and a regular "
                 "expression for the whole name."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave linears that match dense."),
)  # fmt: skip
# Defaults are None throughout: the recipe holds them, and a flag that was not given must not override a recipe file.
learning = _options(
    click.option("--ratio", metavar="RATIO", help="Share of weights to zero, 0 … 0.5 (every tile 2:4), or PATTERN=RATIO,…"),
    click.option("--per-layer", is_flag=True, default=None, help="Give every linear the ratio. [all linears together]"),
    click.option("--method", type=click.Choice(tuple(METHODS)), help="How masks are learned. [oneshot]"),
    click.option("--tile", type=Tile(), help="Tile size; 128x* is 128 rows and all of K. [128x128]"),
    covering,
    click.option("--calib", metavar="TEXT", help="Calibration text: a .txt, .jsonl or .parquet file, a folder or the "
                 "name of a dataset; of FILE.onnx an .npz of inputs. [the model writes its own]"),
    click.option("--windows", type=int, help="Calibration windows. [32]"),
    click.option("--length", type=int, help="Tokens in a calibration window. [512]"),
    click.option("--seed", type=int, help="Seed of everything random. [0]"),
    click.option("--device", metavar="DEVICE", help="Where the model runs while masks are learned. [cuda if there is one]"),
    click.option("--criterion", type=click.Choice(tuple(Criterion)), help="What oneshot and sparsegpt rank tiles by. "
                 "[fisher; relative for sparsegpt]"),
    click.option("--damping", type=float, help="Damping of the Hessian, as a share of its mean diagonal. [0.01]"),
    click.option("--permute/--no-permute", default=None, help="Reorder the hidden channels of feed-forward parts first, so "
                 "that those cheap to prune share tiles; the model computes the same. [no-permute]"),
    click.option("--repair", type=click.Choice(["none", "distill"]), help="Train the surviving weights to the dense model's "
                 "logits. [distill; none for sparsegpt, wanda, magnitude]"),
    click.option("--repair-steps", type=int, help="Steps of repair. [by model size]"),
    click.option("--repair-minutes", type=float, help="Stop repair after so many minutes."),
    click.option("--label-weight", type=float, help="Repair learns the text's own words too: weight of their loss "
                 "beside the KL. Lower perplexity, further from the dense model. [0]"),
    click.option("--batch", type=int, help="Windows in a training step. [2]"),
    click.option("--learning-rate", type=float, help="Of training. [the method's own]"),
    click.option("--prior", metavar="METHOD|FILE", help="What patch-joint, patch-tile and maskllm start from: a one-shot "
                 "method or a masks file. [oneshot]"),
    click.option("--steps", type=int, help="Training steps of patch-joint, patch-tile and maskllm. [200]"),
    click.option("--distill-weight", type=float, help="Weight of the KL to the dense logits beside their loss. [1]"),
    click.option("--checkpoint-every", type=int, help="Training steps between checkpoints. [50]"),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of training and solving. [bf16 if fast]"),
    click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory, more time in training."),
)  # fmt: skip
fusing = _options(
    click.option("--fuse", metavar="KINDS", help="What shares a node, where the graph allows it: all, none, or some of "
                 f"{', '.join(f'{name} ({kind.summary})' for name, kind in FUSIONS.items())}; commas between. [all]"),
    click.option("--no-fuse", "fuse", flag_value="none", help="A node for each linear alone: --fuse none."),
)  # fmt: skip
graph = _options(
    click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), help="Type of the graph and the engine. [float16]"),
    click.option("--opset", type=int, help="ONNX opset: 23 (Attention, RMSNormalization), or 20 (plain ops). [23]"),
    click.option("--logits", type=click.Choice(["last", "all"]), help="Positions that a decoder gives logits of; generation "
                 "needs the last one, which spares a long prompt gigabytes. [last]"),
    fusing,
)  # fmt: skip
engine = _options(
    click.option("--mask", type=PATH, metavar="FILE", help="Use these masks; nothing is learned."),
    graph,
    click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx", "onnx"]), help="[what this machine has]"),
    click.option("--target", metavar="SM[,SM…]", help="GPUs to build for, such as sm86,sm89 or a6000. [local GPU, or sm86]"),
    click.option("--min-shapes", metavar="SPEC", help="Smallest shapes, as trtexec spells them, or batch=1,sequence=1."),
    click.option("--opt-shapes", metavar="SPEC", help="Shapes to tune for."),
    click.option("--max-shapes", metavar="SPEC", help="Largest shapes."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="Builder effort. [the backend's]"),
    click.option("--timing-cache", type=PATH, metavar="FILE", help="Keep measured tactics there (tensorrt)."),
    click.option("--weight-streaming", is_flag=True, default=None, help="Weights may stay in host memory at run time."),
    click.option("--version-compatible", is_flag=True, default=None, help="Later versions of the backend may run it."),
    click.option("--hardware-compatible", is_flag=True, default=None, help="Any GPU from Ampere on may run it (tensorrt; "
                 "tensorrt-rtx takes several --target)."),
)  # fmt: skip
lowering = _options(
    click.option("--lowering", metavar="LOWERING", help="How linears are compiled: auto (plugin where it is predicted "
                 "faster, else dense), plugin, split or dense, or PATTERN=LOWERING,… [auto]"),
    click.option("--batch-size", type=int, help="Sequences that speed is predicted for. [16]"),
    click.option("--prompt-tokens", type=int, help="Tokens of their prompts. [128]"),
    click.option("--generated-tokens", type=int, help="Tokens generated after each. [128]"),
)  # fmt: skip
planning = _options(
    click.option("--speedup", type=float, metavar="X", help="Prune as much as a whole workload X times as fast is predicted "
                 "to take."),
    click.option("--budget-ms", type=float, metavar="MS", help="The same for milliseconds that the workload may take."),
    lowering,
)  # fmt: skip
evaluation = _options(
    click.option("--eval", "eval_text", metavar="TEXT", help="Held-out text for perplexity. [the model writes its own]"),
    click.option("--eval-windows", type=int, help="Windows of it. [8]"),
    click.option("--eval-length", type=int, help="Tokens in a window. [1024]"),
)  # fmt: skip
proof = _options(
    evaluation,
    click.option("--prompt", help="Prompt of the sentence that dense and hybrid model each generate."),
)  # fmt: skip


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given: the others have the defaults of the recipe."""
    return {name: value for name, value in flags.items() if value not in (None, ())}
