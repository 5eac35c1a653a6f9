"""The settings of learning, each declared once. `masklearn.recipe` checks them together."""

from functools import partial
from typing import Annotated, Any

from masklearn.base.option import Bounds, Option
from masklearn.choice.menu import parse_kinds, parse_weights
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.name_globs import parse_pattern
from masklearn.traits import METHODS, Repair, method_names

LEARNING, REPAIR = "Learning", "Repair"
_learning, _repair = partial(Option, group=LEARNING), partial(Option, group=REPAIR)


def _ratio(value: float | str) -> float | str:
    from masklearn.choice.goal import parse_ratio  # imports NumPy

    return parse_ratio(value)


def _tile(value: Any) -> Any:
    from masklearn.masks.tiles import parse_tile  # imports NumPy

    return parse_tile(value) if isinstance(value, str) else value


def _whole_groups(tile: tuple[int, int]) -> tuple[int, int]:
    from masklearn.masks.tiles import GROUP

    if tile[1] % GROUP:
        raise ValueError(f"The columns of a tile are a multiple of {GROUP}.")
    return tile


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"The methods are {', '.join(METHODS)}.")
    return name


_UNREPAIRED = ", ".join(name for name, method in METHODS.items() if method.repair is Repair.NONE)
*_others, _last = method_names(trained=True)
_TRAINED = f"{', '.join(_others)} and {_last}"

# fmt: off
Count = Annotated[int, Bounds(ge=1)]
Ratio = Annotated[float | str, Option("", check=_ratio)]
BytesPerWeight = Annotated[float, Bounds(gt=0.0, le=BYTES_DENSE, finite=True)]
DEFAULT_TILE = (128, 128)
Tile = Annotated[tuple[Count, Count], Option("", parse=_tile, check=_whole_groups)]
Pattern = Annotated[str, Option("", check=parse_pattern)]
Include = Annotated[tuple[Pattern, ...], _learning(
    "Cover only matching linears. A PATTERN, here and in other options, is a name or its end from a dot on (v_proj), a glob "
    "of such (mlp.*), or re: and a regular expression for the whole name.", "PATTERN")]
Exclude = Annotated[tuple[Pattern, ...], _learning("Leave matching linears dense.", "PATTERN")]


class LearnOptions:
    """Settings of learning but the amount of pruning, which a build may take from a masks file."""

    method: Annotated[str, _learning(
        "Method that learns the masks.", unset="oneshot; magnitude for an ONNX file without `calib`", choices=METHODS,
        check=_known_method)] = "oneshot"
    per_layer: Annotated[bool, _learning("Reach the ratio in every linear, not over all of them together.")] = False
    kinds: Annotated[str, _learning(
        "Tile formats to choose from. 2:4 speeds up prefill and decode. 8:16 and 12:16 (that many of 16 weights "
        "stay) lose less quality at the same size but speed up decode only; 6:8 speeds up prefill, with w8a8 only. auto "
        "picks formats by the least loss. Also a list (8:16,12:16), or PATTERN=LIST,….", "KINDS",
        unset="by predicted speed; auto with learn's `bytes_per_weight`",
        check=parse_kinds)] = "2:4"
    weights: Annotated[str | None, _learning(
        "Type of the linears' weights: float16, bfloat16, int8 (a scale a row), int4 (a scale a row and 64 "
        "columns), w8a8 (int8 with int8 activations: fast in prefill; dense, 2:4 and 6:8 tiles), or PATTERN=TYPE,…. "
        "auto, or a list such as int8,int4, picks types by `speedup` or learn's `bytes_per_weight`.",
        "TYPE", unset="the type of the graph; auto for a speed",
        check=parse_weights)] = None
    include: Include = ()
    exclude: Exclude = ()
    calib: Annotated[str | None, _learning(
        "Calibration text: a .txt, .jsonl or .parquet file, a folder or the name of a dataset; for FILE.onnx an .npz of "
        "inputs.", "TEXT", unset="the model writes its own")] = None
    windows: Annotated[int | None, _learning(
        "Number of calibration windows. Scoring tiles and solving weights read no more than these; training does.",
        unset="at least 32, and 4 tokens for each input of the widest linear", ge=1)] = None
    length: Annotated[int, _learning("Tokens in a calibration window.", ge=2)] = 512
    seed: Annotated[int, _learning("Seed of all random draws.", ge=0)] = 0
    device: Annotated[str | None, _learning(
        "Where the model runs while masks are learned.", "DEVICE", unset="cuda if there is one")] = None
    permute: Annotated[bool, _learning(
        "Reorder the hidden channels of feed-forward parts first, so that channels that are cheap to prune share tiles. The "
        "model computes the same.", unset="permute for a decoder by oneshot")] = False
    repair: Annotated[Repair | None, _repair(
        "distill trains the surviving weights to predict what the dense model predicts.",
        unset=f"distill; none for {_UNREPAIRED}")] = None
    repair_steps: Annotated[int | None, _repair("Training steps of repair.", unset="by model size and device", ge=0)] = None
    repair_minutes: Annotated[float | None, _repair("Stop repair after this many minutes.", gt=0.0)] = None
    batch: Annotated[int, _repair("Windows per training step.", ge=1)] = 2
    prior: Annotated[str, _learning(
        f"Masks from which {_TRAINED} start: a one-shot method, or a masks file.", "METHOD|FILE")] = "oneshot"
    steps: Annotated[int, _learning(f"Training steps of {_TRAINED}.", ge=1)] = 200
