"""PatchLinear as an ONNX model-local function: the executable definition of the packed format and of its epilogues.

The body decodes the slabs with standard operators and multiplies in fp32. Everything before the MatMul depends on
constants only and is data movement or integer arithmetic, so ONNX Runtime folds it when it loads the model. The index is
an attribute, because TensorRT gives a plugin a host copy of attributes and of no input; the body takes it from there too.
ONNX Runtime holds all intermediates of all linears while it folds, so the body has few of them and they are small. bf16 is
first widened to fp32 (exact), because ONNX Runtime's CPU kernels do not move bf16.
The epilogue, which follows the product, is in fp32 too and rounds once, at the end. With z = X Wᵀ + b:

    Y = activation(z) + residual                      N rows of W
    Y = activation(z_gate) · z_up + residual          gated: N rows of the gate and N of the up, by turns of 8

A function has no optional inputs, so each combination of an epilogue and of kinds of slabs is an overload with its own body.
All overloads decode by the same text, except that a gated overload separates the rows of gate and up, and that each
further kind adds its own lines. TensorRT runs the plugin of the same name instead of the function, because each node has the
attribute `plugin_namespace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import FAMILIES
from masklearn.quant.table import BFLOAT16, FLOAT16, WeightType
from patch_compile.packing.function_of_int8_inputs import int8_product_lines
from patch_compile.packing.function_of_integers import (
    constant_lines,
    dense_integer_lines,
    of_rows_lines,
    of_slabs_lines,
    sparse_integer_lines,
)
from patch_compile.packing.function_of_sparse_slabs import (
    CONSTANTS,
    OF_K32,
    OF_K64,
    of_sixteen_lines,
    position_lines,
    six_eight_lines,
)
from patch_compile.packing.slab_kinds import ALWAYS

if TYPE_CHECKING:
    import onnx

DOMAIN = "patch"
NAME = "PatchLinear"
VERSION = 3
INPUTS = ("X", "dense", "sparse", "meta")  # inputs of every node; see `tensor_names`

_OF_EIGHT = FAMILIES["6:8"]

# Value of the attribute `activation` -> lines that compute fp32 a from fp32 z.
_ACTIVATIONS = {
    "": (),
    "gelu": ("a = Gelu ({z})",),
    "gelu_tanh": ('a = Gelu <approximate = "tanh"> ({z})',),
    "silu": ("s = Sigmoid ({z})", "a = Mul ({z}, s)"),
}

_BODY = """
<domain: "patch", opset_import: ["": {opset}]{overload}>
PatchLinear <in_features: int, out_features: int, panel_rows: int,
             kinds: string = "{kinds}", weights: string = "{weights}", index: ints,
             activation: string = "", gated: int = 0, residual: int = 0,
             plugin_namespace: string = "", plugin_version: string = "{version}">
            ({inputs}) => (Y)
{{
  N = Constant <value_int: int = @out_features> ()
  K = Constant <value_int: int = @in_features> ()
  PR = Constant <value_int: int = @panel_rows> ()
  zero = Constant <value = int64 {{0}}> ()
  one = Constant <value = int64 {{1}}> ()
  two = Constant <value = int64 {{2}}> ()
  sixteen = Constant <value = int64 {{16}}> ()
  slab_k = Constant <value = int64 {{64}}> ()
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  unknown = Constant <value_ints = [-1]> ()
  PR1 = Unsqueeze (PR, axis0)
  RB = Div (PR, sixteen)
  RB1 = Unsqueeze (RB, axis0)

  {rows}
  n_up = Add (rows, PR)
  n_last = Sub (n_up, one)
  P = Div (n_last, PR)
  sixty_three = Sub (slab_k, one)
  k_up = Add (K, sixty_three)
  S = Div (k_up, slab_k)
  P1 = Unsqueeze (P, axis0)
  S1 = Unsqueeze (S, axis0)

  {dense}

  {sparse}
  kept2 = Constant <value_ints = [16, 2]> ()
  kept_shape = Concat <axis = 0> (unknown, PR1, kept2)
  kept = Reshape (sparse_rows, kept_shape)

  {positions}

  zero_f32 = Constant <value_floats = [0.0]> ()
  zero_moved = CastLike (zero_f32, dense_moved)
  sparse_dims = Shape (sparse)
  sparse_n = Gather <axis = 0> (sparse_dims, axis0)
  blank_shape = Concat <axis = 0> (sparse_n, PR1, dims_groups)
  blank = Expand (zero_moved, blank_shape)
  sparse_slabs = ScatterElements <axis = 3> (blank, positions, kept)

  {others}
  {index}
  slabs = Concat <axis = 0> ({all_slabs})
  slots = Concat <axis = 0> ({all_slots})
  slots_shape = Shape (slots)
  n0 = Squeeze (slots_shape, axis0)
  stored = Range (zero, n0, one)
  stored_at = ScatterElements <axis = 0> (stored, slots, stored)
  grid_shape = Concat <axis = 0> (P1, S1)
  grid_ids = Reshape (stored_at, grid_shape)
  panels = Gather <axis = 0> (slabs, grid_ids)
  columns64 = Constant <value_ints = [64]> ()
  K_padded = Mul (S1, columns64)
  K1 = Unsqueeze (K, axis0)
  N1 = Unsqueeze (N, axis0)
  {weight}

  X_f32 = Cast <to = 1> (X)
  {product}
  {epilogue}
  Y = CastLike ({result}, X)
}}"""

_DENSE = (
    "dims_lanes = Constant <value_ints = [8, 4, 2, 2, 2]> ()",
    "head_dense = Constant <value_ints = [-1, 4]> ()",
    "dense_shape = Concat <axis = 0> (head_dense, RB1, dims_lanes)",
    "dense_moved = {widen} (dense)",
    "dense_lanes = Reshape (dense_moved, dense_shape)",
    "dense_rows = Transpose <perm = [0, 2, 6, 3, 1, 5, 4, 7]> (dense_lanes)",
    "dims_groups = Constant <value_ints = [16, 4]> ()",
    "slab_shape = Concat <axis = 0> (unknown, PR1, dims_groups)",
    "dense_slabs = Reshape (dense_rows, slab_shape)",
)
_SPARSE = (
    "head_sparse = Constant <value_ints = [-1, 2]> ()",
    "sparse_shape = Concat <axis = 0> (head_sparse, RB1, dims_lanes)",
    "sparse_moved = {widen} (sparse)",
    "sparse_lanes = Reshape (sparse_moved, sparse_shape)",
    "sparse_rows = Transpose <perm = [0, 2, 6, 3, 1, 5, 4, 7]> (sparse_lanes)",
)


# The line that computes the number of packed rows, by `gated`.
_ROWS = {False: "rows = Identity (N)", True: "rows = Mul (N, two)"}
# [P, S, PR, 16, 4] -> [K, N]
_WEIGHT = """columns_first = Transpose <perm = [1, 3, 4, 0, 2]> (panels)
  N_padded = Mul (P1, PR1)
  whole_shape = Concat <axis = 0> (K_padded, N_padded)
  whole = Reshape (columns_first, whole_shape)
  ends = Concat <axis = 0> (K1, N1)
  starts = Constant <value_ints = [0, 0]> ()
  weight = Slice (whole, starts, ends)"""
# [P, S, PR, 16, 4] -> [K, 2 N], the gate's columns, then the up's
_GATED_WEIGHT = """columns_first = Transpose <perm = [1, 3, 4, 0, 2]> (panels)
  turns = Constant <value_ints = [2, 8]> ()
  whole_shape = Concat <axis = 0> (K_padded, unknown, turns)
  whole = Reshape (columns_first, whole_shape)
  eight1 = Constant <value_ints = [8]> ()
  blocks = Div (N1, eight1)
  ends = Concat <axis = 0> (K1, blocks)
  starts = Constant <value_ints = [0, 0]> ()
  by_turns = Slice (whole, starts, ends)
  both = Transpose <perm = [0, 2, 1, 3]> (by_turns)
  weight_shape = Concat <axis = 0> (K1, unknown)
  weight = Reshape (both, weight_shape)"""


@dataclass(frozen=True)
class Epilogue:
    """Operations of a node after its product. activation: "", "gelu" (with erf), "gelu_tanh" or "silu"."""

    bias: bool = False
    activation: str = ""
    gated: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"no activation {self.activation!r}")

    @property
    def overload(self) -> str:
        """Name of the function's overload: `bias_gelu_residual`, `gated_silu`; empty without an epilogue."""
        parts = ("bias" * self.bias, "gated" * self.gated, self.activation, "residual" * self.residual)
        return "_".join(part for part in parts if part)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs of the node, in order. The number of inputs tells if there is a bias."""
        return (*INPUTS, *("bias",) * self.bias, *("residual",) * self.residual)

    @property
    def attributes(self) -> dict[str, int | str]:
        """All attributes of the node's epilogue: TensorRT's parser warns of each attribute that is missing, even with a
        default."""
        return {"activation": self.activation, "gated": int(self.gated), "residual": int(self.residual)}


def kinds_attribute(kinds: Sequence[TileKind]) -> str:
    """Returns the value of the attribute `kinds`: the names of the kinds of slabs, in the order of the index."""
    return ",".join(kind.name for kind in kinds)


def tensor_names(kinds: Sequence[TileKind], weights: WeightType | None = None) -> tuple[str, ...]:
    """Returns the names of the inputs that hold slabs, and of the scales of rows, in their order, behind X."""
    others = (
        f"{part}_{_prefix(kind)}"
        for kind in kinds[len(ALWAYS) :]
        for part in ("values", "meta" if kind.family is _OF_EIGHT else "masks")
    )
    return (*INPUTS[1:], *others, *("scales",) * bool(weights and weights.row_bytes))


def overload_of(epilogue: Epilogue, kinds: Sequence[TileKind], weights: WeightType | None = None) -> str:
    """Returns the name of the function overload, from weight type, further kinds and epilogue: `int8_n8_n12_bias`."""
    name = weights.name if weights is not None else ""
    return "_".join(filter(None, (name, *map(_prefix, kinds[len(ALWAYS) :]), epilogue.overload)))


def patch_linear_function(
    epilogue: Epilogue = Epilogue(),
    *,
    opset: int,
    bfloat16: bool,
    kinds: Sequence[TileKind] = ALWAYS,
    weights: WeightType | None = None,
) -> onnx.FunctionProto:
    """Returns the function for nodes with this epilogue and slabs of these kinds, as the overload that `overload_of` names.

    X: T `[..., K]`, T = fp16 or bf16 → Y: T `[..., N]`; bias: T `[N]`, or `[2 N]` if gated (gate, then up); residual: T,
    shape of Y. Accumulates in fp32 and rounds once, at the end.
    opset: the model's, 20 or newer; the ONNX checker requires function and model to agree. weights: a quantised type, None
    for weights in T.
    """
    from onnx import parser

    lines, result = _epilogue(epilogue)
    widen = "Cast <to = 1>" if bfloat16 else "Identity"
    overload, others = overload_of(epilogue, kinds, weights), kinds[len(ALWAYS) :]
    prefixes = ["dense", "sparse", *map(_prefix, others)]
    dense, sparse = _of_always(weights, widen, bfloat16=bfloat16)
    order = OF_K64 if weights and not weights.widened else OF_K32
    text = _BODY.format(
        kinds=kinds_attribute(kinds),
        weights=(weights or (BFLOAT16 if bfloat16 else FLOAT16)).name,
        version=VERSION,
        opset=opset,
        overload=f', overload: "{overload}"' if overload else "",
        inputs=", ".join(("X", *tensor_names(kinds, weights), *epilogue.inputs[len(INPUTS) :])),
        rows=_ROWS[epilogue.gated],
        dense="\n  ".join(dense),
        sparse="\n  ".join(sparse),
        positions="\n  ".join([*CONSTANTS, *position_lines("", "meta", order)]),
        others="\n  ".join(line for kind in others for line in _other_lines(kind, widen, weights)),
        index="\n  ".join(_index_lines(prefixes)),
        all_slabs=", ".join(f"{prefix}_slabs" for prefix in prefixes),
        all_slots=", ".join(f"{prefix}_slot" for prefix in prefixes),
        weight=_GATED_WEIGHT if epilogue.gated else _WEIGHT,
        product="\n  ".join(_product(weights, prefixes, gated=epilogue.gated, bfloat16=bfloat16)),
        epilogue="\n  ".join(lines),
        result=result,
    )
    return parser.parse_function(text)


def _of_always(
    weights: WeightType | None, widen: str, *, bfloat16: bool
) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the lines for the dense slabs, and for the kept values of the 2:4 slabs."""
    if weights is None:
        return [line.format(widen=widen) for line in _DENSE], [line.format(widen=widen) for line in _SPARSE]
    constants = constant_lines(weights, bfloat16=bfloat16)
    return [*constants, *dense_integer_lines(weights)], sparse_integer_lines(weights)


def _product(
    weights: WeightType | None, prefixes: Sequence[str], *, gated: bool, bfloat16: bool
) -> list[str]:
    if weights is None:
        return ["weight_f32 = Cast <to = 1> (weight)", "product = MatMul (X_f32, weight_f32)"]
    if not weights.widened:
        return int8_product_lines(gated=gated)
    widened = "weight_of_integers = Cast <to = 1> (weight)"
    if weights.span is None:
        by_integers = "product_of_integers = MatMul (X_f32, weight_of_integers)"
        return [widened, by_integers, *of_rows_lines(gated=gated)]
    scaled = of_slabs_lines(prefixes, gated=gated, bfloat16=bfloat16)
    return [widened, *scaled, "product = MatMul (X_f32, weight_f32)"]


def _other_lines(kind: TileKind, widen: str, weights: WeightType | None) -> list[str]:
    """Returns the lines for the slabs of a kind that not every weight has."""
    if kind.family is _OF_EIGHT:
        return six_eight_lines(_prefix(kind), kind)
    return of_sixteen_lines(_prefix(kind), kind.kept, widen, weights)


def _prefix(kind: TileKind) -> str:
    return f"n{kind.kept}of8" if kind.family is _OF_EIGHT else f"n{kind.kept}"


def _index_lines(prefixes: Sequence[str]) -> list[str]:
    """Returns the lines that compute the place `<prefix>_slot` in the grid of slabs of each slab of each kind."""
    lines = [
        "index_wide = Constant <value_ints: ints = @index> ()",
        "one1 = Constant <value_ints = [1]> ()",
        "Q = Add (P1, one1)",
        f"kinds1 = Constant <value_ints = [{len(prefixes)}]> ()",
        "pointers_end = Mul (Q, kinds1)",
    ]
    begin = "pointers_end"
    for number, p in enumerate(prefixes):
        tensor = p if number < len(ALWAYS) else f"values_{p}"
        lines += [
            f"{p}_number = Constant <value_ints = [{number}]> ()",
            f"{p}_pointers = Mul (Q, {p}_number)",
            f"{p}_second = Add ({p}_pointers, one1)",
            f"{p}_past_last = Add ({p}_pointers, Q)",
            f"{p}_ends = Slice (index_wide, {p}_second, {p}_past_last)",
            f"{p}_all_dims = Shape ({tensor})",
            f"{p}_count = Gather <axis = 0> ({p}_all_dims, axis0)",
            f"{p}_columns_end = Add ({begin}, {p}_count)",
            f"{p}_k = Slice (index_wide, {begin}, {p}_columns_end)",
            f"{p}_count0 = Squeeze ({p}_count, axis0)",
            f"{p}_ids = Range (zero, {p}_count0, one)",
            f"{p}_ids1 = Unsqueeze ({p}_ids, axis1)",
            f"{p}_past = LessOrEqual ({p}_ends, {p}_ids1)",
            f"{p}_past_int = Cast <to = 7> ({p}_past)",
            f"{p}_panel = ReduceSum <keepdims = 0> ({p}_past_int, axis1)",
            f"{p}_row = Mul ({p}_panel, S1)",
            f"{p}_slot = Add ({p}_row, {p}_k)",
        ]
        begin = f"{p}_columns_end"
    return lines


def _epilogue(epilogue: Epilogue) -> tuple[list[str], str]:
    """Returns the lines that follow `product`, and the name of their fp32 result."""
    lines, result = [], "product"
    if epilogue.bias:
        lines += ["bias_f32 = Cast <to = 1> (bias)", "sum = Add (product, bias_f32)"]
        result = "sum"
    if epilogue.gated:
        lines.append(f"gate, up = Split <axis = -1, num_outputs = 2> ({result})")
        result = "gate"
    if epilogue.activation:
        lines += [line.format(z=result) for line in _ACTIVATIONS[epilogue.activation]]
        result = "a"
    if epilogue.gated:
        lines.append(f"gated_up = Mul ({result}, up)")
        result = "gated_up"
    if epilogue.residual:
        lines += ["residual_f32 = Cast <to = 1> (residual)", f"total = Add ({result}, residual_f32)"]
        result = "total"
    return lines, result
