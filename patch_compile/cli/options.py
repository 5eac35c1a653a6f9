"""Options that several commands share, each declared once. Types and defaults are those of the library's parameters."""

from __future__ import annotations

from collections.abc import Iterable

from masklearn.traits import METHODS, Criterion, Repair, method_names
from patch_compile.cli.command import Option
from patch_compile.packing.fusion import FUSIONS

__all__ = ["OPTIONS"]


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


_TRAINED = _listed(method_names(trained=True))
_RANKING = {name: method.criteria[0] for name, method in METHODS.items() if method.criteria}
_UNREPAIRED = ", ".join(name for name, method in METHODS.items() if method.repair is Repair.NONE)


def _tile(tile: tuple[int, int]) -> str:
    return "{}x{}".format(*tile)


_SETTINGS = {
    "ratio": Option("Share of weights to zero, 0 … 0.5 (every tile 2:4), or PATTERN=RATIO,…", "RATIO"),
    "per_layer": Option("Give every linear the ratio.", unset="all linears together"),
    "method": Option("How masks are learned.", choices=tuple(METHODS)),
    "tile": Option("Tile size; 128x* is 128 rows and all of K.", "ROWSxCOLS", spell=_tile),
    "include": Option("Cover only linears that match. A PATTERN, here and in other options, is a name or its end from a dot "
                      "on (v_proj), a glob of such (mlp.*), or re: and a regular expression for the whole name.", "PATTERN"),
    "exclude": Option("Leave linears that match dense.", "PATTERN"),
    "calib": Option("Calibration text: a .txt, .jsonl or .parquet file, a folder or the name of a dataset; of FILE.onnx an "
                    ".npz of inputs.", "TEXT", "the model writes its own"),
    "windows": Option("Calibration windows."),
    "length": Option("Tokens in a calibration window."),
    "seed": Option("Seed of everything random."),
    "device": Option("Where the model runs while masks are learned.", "DEVICE", "cuda if there is one"),
    "criterion": Option(f"What {_listed(_RANKING)} rank tiles by.", choices=tuple(map(str, Criterion)),
                        unset="; ".join(f"{criterion} for {name}" for name, criterion in _RANKING.items())),
    "damping": Option("Damping of the Hessian, as a share of its mean diagonal."),
    "permute": Option("Reorder the hidden channels of feed-forward parts first, so that those cheap to prune share tiles; "
                      "the model computes the same.", unset="no-permute", flags=("--permute/--no-permute",)),
    "repair": Option("Train the surviving weights to the dense model's logits.",
                     unset=f"distill; none for {_UNREPAIRED}"),
    "repair_steps": Option("Steps of repair.", unset="by model size"),
    "repair_minutes": Option("Stop repair after so many minutes."),
    "label_weight": Option("Repair learns the text's own words too: weight of their loss beside the KL. Lower perplexity, "
                           "further from the dense model."),
    "batch": Option("Windows in a training step."),
    "learning_rate": Option("Learning rate of training.", unset="the method's own"),
    "prior": Option(f"What {_TRAINED} start from: a one-shot method or a masks file.",
                    "METHOD|FILE"),
    "steps": Option(f"Training steps of {_TRAINED}."),
    "distill_weight": Option("Weight of the KL to the dense logits beside their loss."),
    "checkpoint_every": Option("Training steps between checkpoints."),
    "precision": Option("Type that training and solving compute in; auto is bf16 where that is fast."),
    "gradient_checkpointing": Option("Less memory, more time in training."),
    "speedup": Option("Prune as much as a whole workload X times as fast is predicted to take.", "X"),
    "budget_ms": Option("The same for milliseconds that the workload may take.", "MS"),
    "lowering": Option("How linears are compiled: auto (plugin where it is predicted faster, else dense), plugin, split or "
                       "dense, or PATTERN=LOWERING,…", "LOWERING"),
    "batch_size": Option("Sequences that speed is predicted for."),
    "prompt_tokens": Option("Tokens of their prompts."),
    "generated_tokens": Option("Tokens generated after each."),
    "mask": Option("Use these masks; nothing is learned.", "FILE"),
    "dtype": Option("Type of the graph and the engine."),
    "opset": Option("ONNX opset: 23 (Attention, RMSNormalization), or 20 (plain ops)."),
    "logits": Option("Positions that a decoder gives logits of; generation needs the last one, which spares a long prompt "
                     "gigabytes."),
    "fuse": Option("What shares a node, where the graph allows it: all, none, or some of "
                   f"{', '.join(f'{name} ({kind.summary})' for name, kind in FUSIONS.items())}; commas between.", "KINDS",
                   shortcuts={"--no-fuse": ("none", "A node for each linear alone: --fuse none.")}),
    "eval_text": Option("Held-out text for perplexity.", "TEXT", "the model writes its own", flags=("--eval",)),
    "eval_windows": Option("Windows of it."),
    "eval_length": Option("Tokens in a window."),
}  # fmt: skip
_RUN = {
    "force": Option("Replace OUT."),
    "resume": Option("Go on with an interrupted run."),
    "runner": Option("What runs it.", unset="the engine where this machine can"),
}
OPTIONS = _SETTINGS | _RUN
