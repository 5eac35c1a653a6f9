"""Options that several commands share, each declared once. Types and defaults are those of the library's parameters."""

from __future__ import annotations

from collections.abc import Iterable

from masklearn import METHODS, Criterion, Repair, method_names
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
    "ratio": Option("Share of weights to zero, 0 … 0.5 (every tile 2:4), or PATTERN=RATIO,…. For a target it counts over "
                    "the linears that gain there (see --lowering).", "RATIO"),
    "bytes_per_weight": Option("Prune until a packed 16-bit weight takes at most B bytes on average: 2 dense, 1.125 with "
                               "every tile 2:4 or 8:16. It compares kinds of tiles, and takes the place of --ratio. With "
                               "--weights auto a weight counts in its own type.", "B",
                               flags=("--bytes",)),
    "per_layer": Option("Reach the ratio in every linear, not over all of them together."),
    "method": Option("Method that learns the masks.", choices=tuple(METHODS)),
    "tile": Option("Tile size; 128x* is 128 rows and all of K.", "ROWSxCOLS", spell=_tile),
    "kinds": Option("Kinds of tiles beside dense: 2:4, auto (whichever loses least), a list such as 8:16,12:16, or "
                    "PATTERN=LIST,…. n:16 keeps n of 16 weights of a row, n = 4, 6, … 14: more quality at the bytes "
                    "of 2:4, and as fast where bytes are the limit, as in decode; prompts gain by 2:4 alone.", "KINDS"),
    "weights": Option("Type of the linears' weights: float16, bfloat16, int8 or int4, or PATTERN=TYPE,…. int8 has a scale "
                      "for each row, int4 one for each row and 64 columns. Activations keep 16 bits. auto, or a list such "
                      "as int8,int4, takes in each linear what loses least for --speedup, --budget-ms or --bytes.", "TYPE",
                      "the type of the graph"),
    "include": Option("Cover only matching linears. A PATTERN, here and in other options, is a name or its end from a dot "
                      "on (v_proj), a glob of such (mlp.*), or re: and a regular expression for the whole name.", "PATTERN"),
    "exclude": Option("Leave matching linears dense.", "PATTERN"),
    "calib": Option("Calibration text: a .txt, .jsonl or .parquet file, a folder or the name of a dataset; for FILE.onnx "
                    "an .npz of inputs.", "TEXT", "the model writes its own"),
    "windows": Option("Number of calibration windows."),
    "length": Option("Tokens in a calibration window."),
    "seed": Option("Seed of all random draws."),
    "device": Option("Where the model runs while masks are learned.", "DEVICE", "cuda if there is one"),
    "threads": Option("Threads of learning on a CPU. Results depend on their number, by rounding, in bf16, for FILE.onnx "
                      "with --calib, and if it is no power of two or --length no multiple of 512; the recipe of OUT then "
                      "records it.", unset="one for each core"),
    "criterion": Option(f"Criterion by which {_listed(_RANKING)} rank tiles.", choices=tuple(map(str, Criterion)),
                        unset="; ".join(f"{criterion} for {name}" for name, criterion in _RANKING.items())),
    "damping": Option("Damping of the Hessian, as a share of its mean diagonal."),
    "permute": Option("Reorder the hidden channels of feed-forward parts first, so that channels that are cheap to prune "
                      "share tiles. The model computes the same.", unset="no-permute", flags=("--permute/--no-permute",)),
    "repair": Option("Train the surviving weights to the dense model's logits.",
                     unset=f"distill; none for {_UNREPAIRED}"),
    "repair_steps": Option("Steps of repair.", unset="by model size"),
    "repair_minutes": Option("Stop repair after this many minutes."),
    "label_weight": Option("Weight of the loss on the text's own tokens in repair, beside the KL to the dense model. It "
                           "lowers perplexity but moves the model away from the dense one."),
    "batch": Option("Windows per training step."),
    "learning_rate": Option("Learning rate of training.", unset="the method's own"),
    "prior": Option(f"Start of {_TRAINED}: a one-shot method or a masks file.",
                    "METHOD|FILE"),
    "steps": Option(f"Training steps of {_TRAINED}."),
    "distill_weight": Option("Weight of the KL to the dense logits, beside the loss of these methods."),
    "checkpoint_every": Option("Training steps between checkpoints."),
    "precision": Option("Type that training and solving compute in; auto is bf16 where that is fast."),
    "gradient_checkpointing": Option("Train in less memory and more time."),
    "speedup": Option("Prune just enough for the workload to be X times as fast as the dense model, by prediction.", "X"),
    "budget_ms": Option("Prune just enough for the workload to take MS milliseconds, by prediction.", "MS"),
    "lowering": Option("How linears are compiled: auto (plugin where it is predicted faster, else dense), plugin, split or "
                       "dense, or PATTERN=LOWERING,…. What is compiled dense is learned whole; plugin prunes everywhere.",
                       "LOWERING"),
    "batch_size": Option("Sequences of the workload whose speed is predicted."),
    "prompt_tokens": Option("Tokens of each prompt of the workload."),
    "generated_tokens": Option("Tokens generated after each prompt."),
    "mask": Option("Use these masks; nothing is learned.", "FILE"),
    "dtype": Option("Type of the graph and the engine."),
    "opset": Option("ONNX opset: 23 (Attention, RMSNormalization), or 20 (plain ops)."),
    "logits": Option("Positions whose logits a decoder returns. Generation needs only the last, which saves gigabytes on a "
                     "long prompt."),
    "fuse": Option("Operations that share a node with linears, where the graph allows it: all, none, or a comma-separated "
                   "list of "
                   f"{', '.join(f'{name} ({kind.summary})' for name, kind in FUSIONS.items())}.", "KINDS",
                   shortcuts={"--no-fuse": ("none", "Give each linear a node of its own, as --fuse none does.")}),
    "eval_text": Option("Held-out text for perplexity.", "TEXT", "the model writes its own", flags=("--eval",)),
    "eval_windows": Option("Number of windows of held-out text."),
    "eval_length": Option("Tokens in a window of held-out text."),
}  # fmt: skip
_SERVICES = {
    "service": Option("Also write what this service builds from: OUT/edgellm for TensorRT Edge-LLM, whose own builder makes "
                      "the engine.", "SERVICE", flags=("--for",)),
    "edgellm_python": Option("Python of the environment that Edge-LLM's exporter is installed in.", "PYTHON", "this one"),
}  # fmt: skip
_RUN = {
    "force": Option("Replace OUT if it exists; refused if OUT holds files of yours."),
    "resume": Option("Continue an interrupted run."),
    "trust": Option("Run the compiled plugin that came with OUT, though this installation did not build it."),
    "runner": Option("Run the engine or the ONNX file.", unset="the engine, if this machine can run it"),
}
OPTIONS = _SETTINGS | _SERVICES | _RUN
