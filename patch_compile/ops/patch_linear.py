"""PatchLinear as an ONNX model-local function: the executable definition of the packed format.

The body decodes the slabs with standard operators and multiplies in fp32. Everything before the MatMul depends on
constants alone and is data movement or integer arithmetic, so ONNX Runtime folds it when it loads the model. It
holds every intermediate of every linear while it does, so there are few of them and they are small. bf16 is widened
to fp32 first (exact), since its CPU kernels do not move bf16.
TensorRT takes the plugin of the same name instead, since each node carries `plugin_namespace`.
"""

from __future__ import annotations

import onnx
from onnx import parser

__all__ = ["DOMAIN", "INPUTS", "NAME", "OVERLOAD_BIAS", "VERSION", "patch_linear_function"]

DOMAIN = "patch"
NAME = "PatchLinear"
VERSION = 1
INPUTS = ("X", "dense", "sparse", "meta", "index")
OVERLOAD_BIAS = "bias"

_BODY = """
<domain: "patch", opset_import: ["": {opset}]{overload}>
PatchLinear <in_features: int, out_features: int, panel_rows: int,
             plugin_namespace: string = "", plugin_version: string = "1">
            (X, dense, sparse, meta, index{bias_input}) => (Y)
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

  n_up = Add (N, PR)
  n_last = Sub (n_up, one)
  P = Div (n_last, PR)
  sixty_three = Sub (slab_k, one)
  k_up = Add (K, sixty_three)
  S = Div (k_up, slab_k)
  P1 = Unsqueeze (P, axis0)
  S1 = Unsqueeze (S, axis0)

  dims_lanes = Constant <value_ints = [8, 4, 2, 2, 2]> ()
  head_dense = Constant <value_ints = [-1, 4]> ()
  dense_shape = Concat <axis = 0> (head_dense, RB1, dims_lanes)
  dense_moved = {widen} (dense)
  dense_lanes = Reshape (dense_moved, dense_shape)
  dense_rows = Transpose <perm = [0, 2, 6, 3, 1, 5, 4, 7]> (dense_lanes)
  dims_groups = Constant <value_ints = [16, 4]> ()
  slab_shape = Concat <axis = 0> (unknown, PR1, dims_groups)
  dense_slabs = Reshape (dense_rows, slab_shape)

  head_sparse = Constant <value_ints = [-1, 2]> ()
  sparse_shape = Concat <axis = 0> (head_sparse, RB1, dims_lanes)
  sparse_moved = {widen} (sparse)
  sparse_lanes = Reshape (sparse_moved, sparse_shape)
  sparse_rows = Transpose <perm = [0, 2, 6, 3, 1, 5, 4, 7]> (sparse_lanes)
  kept2 = Constant <value_ints = [16, 2]> ()
  kept_shape = Concat <axis = 0> (unknown, PR1, kept2)
  kept = Reshape (sparse_rows, kept_shape)

  dims_meta = Constant <value_ints = [8, 4, 1]> ()
  meta_shape = Concat <axis = 0> (unknown, RB1, dims_meta)
  meta_lanes = Reshape (meta, meta_shape)
  half_word = Constant <value = int32 {{65536}}> ()
  low_half = Mod (meta_lanes, half_word)
  high_up = Sub (meta_lanes, low_half)
  high_signed = Div (high_up, half_word)
  high_half = Mod (high_signed, half_word)
  meta_halves = Concat <axis = 4> (low_half, high_half)
  meta_rows = Transpose <perm = [0, 1, 4, 2, 3]> (meta_halves)
  words_per_row = Constant <value_ints = [4, 1]> ()
  word_shape = Concat <axis = 0> (unknown, PR1, words_per_row)
  row_words = Reshape (meta_rows, word_shape)
  nibble_units = Constant <value = int32[4] {{1, 16, 256, 4096}}> ()
  sixteen32 = Constant <value = int32 {{16}}> ()
  nibbles_up = Div (row_words, nibble_units)
  nibbles = Mod (nibbles_up, sixteen32)
  groups16 = Constant <value_ints = [16]> ()
  group_shape = Concat <axis = 0> (unknown, PR1, groups16)
  group_nibbles = Reshape (nibbles, group_shape)
  position_table = Constant <value = int32[16, 2] {{{table}}}> ()
  positions = Gather <axis = 0> (position_table, group_nibbles)

  zero_f32 = Constant <value_floats = [0.0]> ()
  zero_moved = CastLike (zero_f32, dense_moved)
  sparse_dims = Shape (sparse)
  nS = Gather <axis = 0> (sparse_dims, axis0)
  blank_shape = Concat <axis = 0> (nS, PR1, dims_groups)
  blank = Expand (zero_moved, blank_shape)
  sparse_slabs = ScatterElements <axis = 3> (blank, positions, kept)

  index_wide = Cast <to = 7> (index)
  dense_dims = Shape (dense)
  nD = Gather <axis = 0> (dense_dims, axis0)
  one1 = Constant <value_ints = [1]> ()
  two1 = Constant <value_ints = [2]> ()
  Q = Add (P1, one1)
  Q2 = Mul (Q, two1)
  after_dense = Add (Q2, nD)
  after_sparse = Add (after_dense, nS)
  Qp1 = Add (Q, one1)
  dense_ends = Slice (index_wide, one1, Q)
  sparse_ends = Slice (index_wide, Qp1, Q2)
  dense_k = Slice (index_wide, Q2, after_dense)
  sparse_k = Slice (index_wide, after_dense, after_sparse)

  nD0 = Squeeze (nD, axis0)
  nS0 = Squeeze (nS, axis0)
  dense_ids = Range (zero, nD0, one)
  sparse_ids = Range (zero, nS0, one)
  dense_ids1 = Unsqueeze (dense_ids, axis1)
  sparse_ids1 = Unsqueeze (sparse_ids, axis1)
  dense_past = LessOrEqual (dense_ends, dense_ids1)
  sparse_past = LessOrEqual (sparse_ends, sparse_ids1)
  dense_past_int = Cast <to = 7> (dense_past)
  sparse_past_int = Cast <to = 7> (sparse_past)
  dense_panel = ReduceSum <keepdims = 0> (dense_past_int, axis1)
  sparse_panel = ReduceSum <keepdims = 0> (sparse_past_int, axis1)
  dense_row = Mul (dense_panel, S1)
  sparse_row = Mul (sparse_panel, S1)
  dense_slot = Add (dense_row, dense_k)
  sparse_slot = Add (sparse_row, sparse_k)

  slabs = Concat <axis = 0> (dense_slabs, sparse_slabs)
  slots = Concat <axis = 0> (dense_slot, sparse_slot)
  n0 = Add (nD0, nS0)
  stored = Range (zero, n0, one)
  stored_at = ScatterElements <axis = 0> (stored, slots, stored)
  grid_shape = Concat <axis = 0> (P1, S1)
  grid_ids = Reshape (stored_at, grid_shape)
  panels = Gather <axis = 0> (slabs, grid_ids)
  columns_first = Transpose <perm = [1, 3, 4, 0, 2]> (panels)
  columns64 = Constant <value_ints = [64]> ()
  K_padded = Mul (S1, columns64)
  N_padded = Mul (P1, PR1)
  whole_shape = Concat <axis = 0> (K_padded, N_padded)
  whole = Reshape (columns_first, whole_shape)
  K1 = Unsqueeze (K, axis0)
  N1 = Unsqueeze (N, axis0)
  ends = Concat <axis = 0> (K1, N1)
  starts = Constant <value_ints = [0, 0]> ()
  weight = Slice (whole, starts, ends)
  weight_f32 = Cast <to = 1> (weight)

  X_f32 = Cast <to = 1> (X)
  {epilogue}
  Y = CastLike (sum, X)
}}"""

_PLAIN = "sum = MatMul (X_f32, weight_f32)"
_WITH_BIAS = """product = MatMul (X_f32, weight_f32)
  bias_f32 = Cast <to = 1> (bias)
  sum = Add (product, bias_f32)"""


def patch_linear_function(*, opset: int, bias: bool, bfloat16: bool) -> onnx.FunctionProto:
    """The function for nodes without a bias, or (overload `bias`) with one.

    X: T `[..., K]`, T = fp16 or bf16 → Y: T `[..., N]`; fp32 accumulation, one rounding at the end.
    `opset` is the model's (20 or newer): the ONNX checker wants function and model to agree.
    """
    table = ", ".join(f"{nibble & 3}, {nibble >> 2}" for nibble in range(16))
    text = _BODY.format(
        table=table,
        widen="Cast <to = 1>" if bfloat16 else "Identity",
        opset=opset,
        overload=f', overload: "{OVERLOAD_BIAS}"' if bias else "",
        bias_input=", bias" if bias else "",
        epilogue=_WITH_BIAS if bias else _PLAIN,
    )
    return parser.parse_function(text)
