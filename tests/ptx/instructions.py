"""Single instructions run by the PTX interpreter."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.ptx.machine import Machine
from tests.ptx.memory import Memory
from tests.ptx.parser import parse_entry

Tensors = dict[str, NDArray[np.generic]]
BITS = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
"""Types of 16 bits by their names in PTX."""


def execute(body: str, tensors: Tensors, threads: int = 32, shared: int = 0, blocks: int = 1) -> Memory:
    """Run a kernel whose pointers %rd0, %rd1, ... are the tensors; tensors whose name begins with out are writable."""
    loads = "\n".join(f"ld.param.u64 %rd{i}, [k_param_0+{8 * i}];" for i in range(len(tensors)))
    text = f"""
        .version 8.5 .target sm_80 .address_size 64
        .extern .shared .align 128 .b8 pool[];
        .visible .entry k(.param .align 8 .b8 k_param_0[{8 * len(tensors)}]) .maxntid {threads}, 1, 1
        {{
        .reg .pred %p<10>; .reg .b16 %rs<20>; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %rd<40>;
        {loads}
        mov.u32 %r0, %tid.x;
        {body}
        ret;
        }}"""
    memory = Memory.holding(tensors, [name for name in tensors if name.startswith("out")])
    pointers = np.array([memory.address(name) for name in tensors], np.uint64).tobytes()
    Machine(parse_entry(text, "k"), shared).launch(blocks, pointers, memory)
    return memory


def lanes_of_a(matrix: NDArray[np.generic]) -> NDArray[np.generic]:
    """Values [16, 16] as the eight values of each lane, by the figure of m16n8k16's A; bytes [16, 32] as by m16n8k32's.

    Bytes [16, 16] have the first half of the registers.
    """
    word = 4 // matrix.itemsize
    lanes = np.zeros((32, matrix.shape[1] // 2), matrix.dtype)
    for lane, i in itertools.product(range(32), range(lanes.shape[1])):
        row = lane // 4 + (0 if i // word in (0, 2) else 8)
        lanes[lane, i] = matrix[row, lane % 4 * word + i % word + (4 * word if i >= 2 * word else 0)]
    return lanes


def lanes_of_b(matrix: NDArray[np.generic]) -> NDArray[np.generic]:
    """Values [k, 8] as the k / 4 values of each lane."""
    word = 4 // matrix.itemsize
    lanes = np.zeros((32, len(matrix) // 4), matrix.dtype)
    for lane, i in itertools.product(range(32), range(len(matrix) // 4)):
        lanes[lane, i] = matrix[lane % 4 * word + i % word + i // word * 4 * word, lane // 4]
    return lanes


def multiply(
    kind: str, a: object, b: object, c: object, metadata: object = None, selector: int = 0
) -> NDArray[np.generic]:
    """D [16, 8] of mma, or of mma.sp when metadata [32] is given. kind: of BITS, or s8."""
    dtype = BITS.get(kind, np.dtype(np.int8))
    left, right = lanes_of_a(np.asarray(a, dtype)), lanes_of_b(np.asarray(b, dtype))
    sums_kind = "s32" if kind == "s8" else "f32"
    addend = np.asarray(c, np.int32 if kind == "s8" else np.float32)
    sums = np.zeros((32, 4), addend.dtype)
    for lane, i in itertools.product(range(32), range(4)):
        sums[lane, i] = addend[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2]
    tensors: Tensors = {
        "a": left.view(np.uint32), "b": right.view(np.uint32), "out": sums,
        "e": np.zeros(32, np.uint32) if metadata is None else np.asarray(metadata, np.uint32),
    }  # fmt: skip
    depth = left.shape[1] * (2 if metadata is None else 4)
    shape, rest = "sync.aligned", ""
    if metadata is not None:
        shape, rest = "sp::ordered_metadata.sync.aligned", f", %r9, {selector}"
    of_a = ", ".join(f"%r{1 + i}" for i in range(left.nbytes // 128))
    of_b = ", ".join(f"%r{5 + i}" for i in range(right.nbytes // 128))
    of_c = "%r10, %r11, %r12, %r13" if kind == "s8" else "%f1, %f2, %f3, %f4"
    a_words, b_words = (len(registers.split(",")) for registers in (of_a, of_b))
    body = f"""
        mul.wide.u32 %rd10, %r0, {4 * a_words}; add.s64 %rd11, %rd10, %rd0; ld.global.v{a_words}.u32 {{{of_a}}}, [%rd11];
        mul.wide.u32 %rd12, %r0, {4 * b_words}; add.s64 %rd13, %rd12, %rd1; ld.global.v{b_words}.u32 {{{of_b}}}, [%rd13];
        mul.wide.u32 %rd17, %r0, 16; add.s64 %rd14, %rd17, %rd2; ld.global.v4.{sums_kind} {{{of_c}}}, [%rd14];
        mul.wide.u32 %rd15, %r0, 4; add.s64 %rd16, %rd15, %rd3; ld.global.u32 %r9, [%rd16];
        mma.{shape}.m16n8k{depth}.row.col.{sums_kind}.{kind}.{kind}.{sums_kind}
            {{{of_c}}}, {{{of_a}}}, {{{of_b}}}, {{{of_c}}}{rest};
        st.global.v4.{sums_kind} [%rd14], {{{of_c}}};"""
    result = execute(body, tensors).tensor("out", sums.dtype).reshape(32, 4)
    out = np.zeros((16, 8), sums.dtype)
    for lane, i in itertools.product(range(32), range(4)):
        out[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2] = result[lane, i]
    return out
