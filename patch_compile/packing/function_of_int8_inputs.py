"""The lines of PatchLinear's function body for w8a8, which rounds its inputs to int8, token by token.

The scale of a token is its largest input / 127. The inputs of a token count as zeros if none reaches 2^-100, and its outputs
are NaN if an input is infinite or NaN.

The sums are exact. A product over 1024 columns stays below 2^24, so that fp32 holds each partial sum in every order of the
additions, and the products of the chunks are added as int32. TF32 and bfloat16 hold the integers, so the sums are exact too
where ONNX Runtime multiplies fp32 in these types. ONNX's operators for int8 products are not used, because ONNX Runtime's
saturate on some CPUs.
"""

from __future__ import annotations

from patch_compile.packing.function_of_integers import of_rows_lines

_CHUNK = 16  # slabs

_CHUNKS = (
    # Chunks of equally many slabs, so that little is added behind K.
    f"most_slabs = Constant <value_ints = [{_CHUNK}]> ()",
    f"most_slabs_less = Constant <value_ints = [{_CHUNK - 1}]> ()",
    "slabs_up = Add (S1, most_slabs_less)",
    "chunks = Div (slabs_up, most_slabs)",
    "slabs_and_chunks = Add (S1, chunks)",
    "slabs_of_chunks = Sub (slabs_and_chunks, one1)",
    "chunk_slabs = Div (slabs_of_chunks, chunks)",
    "chunk_columns = Mul (chunk_slabs, columns64)",
    "all_columns = Mul (chunks, chunk_columns)",
    "columns_beyond = Sub (all_columns, K1)",
    "no_columns = Constant <value_ints = [0]> ()",
    "weight_pads = Concat <axis = 0> (no_columns, no_columns, columns_beyond, no_columns)",
    "weight_padded = Pad (weight, weight_pads)",
    "by_chunk = Concat <axis = 0> (chunks, chunk_columns, unknown)",
    "weight_by_chunk = Reshape (weight_padded, by_chunk)",
    "weight_f32 = Cast <to = 1> (weight_by_chunk)",
)
_INPUTS = (
    "nought = Constant <value = float {0.0}> ()",
    "unit = Constant <value = float {1.0}> ()",
    "highest = Constant <value = float {127.0}> ()",
    f"least = Constant <value = float {{{2.0**-100!r}}}> ()",
    "flaws = Sub (X_f32, X_f32)",  # 0, or NaN of an infinity or a NaN
    "flaw = ReduceSum (flaws, unknown)",
    "sound = Equal (flaw, nought)",
    "finite = Where (sound, X_f32, nought)",
    "sizes = Abs (finite)",
    "largest = ReduceMax (sizes, unknown)",
    "reached = GreaterOrEqual (largest, least)",
    "divisor = Where (reached, largest, unit)",
    "inverse = Div (highest, divisor)",
    "finite_scale = Div (largest, highest)",
    "scale_of_token = Add (finite_scale, flaw)",
    "scaled = Mul (finite, inverse)",
    "inputs_of_integers = Round (scaled)",  # none is beyond 127
)
_SUMS = (
    "inputs_pads = Concat <axis = 0> (no_columns, columns_beyond)",
    "inputs_padded = Pad (inputs_of_integers, inputs_pads, nought, unknown)",
    "inputs_chunks = Concat <axis = 0> (unknown, chunks, chunk_columns)",
    "inputs_by_token = Reshape (inputs_padded, inputs_chunks)",
    "inputs_by_chunk = Transpose <perm = [1, 0, 2]> (inputs_by_token)",
    "sums_of_chunks_f32 = MatMul (inputs_by_chunk, weight_f32)",
    "sums_of_chunks = Cast <to = 6> (sums_of_chunks_f32)",
    "sums = ReduceSum <keepdims = 0> (sums_of_chunks, axis0)",
    "sums_f32 = Cast <to = 1> (sums)",
    "leading = Shape <start = 0, end = -1> (X)",
    "trailing = Shape <start = -1> (sums)",
    "sums_shape = Concat <axis = 0> (leading, trailing)",
    "product_of_integers = Reshape <allowzero = 1> (sums_f32, sums_shape)",
)


def int8_product_lines(*, gated: bool) -> list[str]:
    """Returns lines that compute `product` from `X_f32` and the integers `weight` `[K, columns]`."""
    return [
        *_CHUNKS,
        *_INPUTS,
        *_SUMS,
        *of_rows_lines(gated=gated, product="product_of_rows"),
        "product = Mul (product_of_rows, scale_of_token)",
    ]
