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
    """Values [16, 16] as the eight values of each lane, by the figure of m16n8k16's A."""
    lanes = np.zeros((32, 8), matrix.dtype)
    for lane, i in itertools.product(range(32), range(8)):
        row = lane // 4 + (0 if i in (0, 1, 4, 5) else 8)
        lanes[lane, i] = matrix[row, lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)]
    return lanes


def lanes_of_b(matrix: NDArray[np.generic]) -> NDArray[np.generic]:
    """Values [k, 8] as the k / 4 values of each lane."""
    lanes = np.zeros((32, len(matrix) // 4), matrix.dtype)
    for lane, i in itertools.product(range(32), range(len(matrix) // 4)):
        lanes[lane, i] = matrix[lane % 4 * 2 + (i & 1) + i // 2 * 8, lane // 4]
    return lanes


def multiply(
    kind: str, a: object, b: object, c: object, metadata: object = None, selector: int = 0
) -> NDArray[np.float32]:
    """D [16, 8] of mma, or of mma.sp when metadata [32] is given."""
    left, right = lanes_of_a(np.asarray(a, BITS[kind])), lanes_of_b(np.asarray(b, BITS[kind]))
    addend, sums = np.asarray(c, np.float32), np.zeros((32, 4), np.float32)
    for lane, i in itertools.product(range(32), range(4)):
        sums[lane, i] = addend[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2]
    tensors: Tensors = {
        "a": left.view(np.uint16), "b": right.view(np.uint16), "out": sums,
        "e": np.zeros(32, np.uint32) if metadata is None else np.asarray(metadata, np.uint32),
    }  # fmt: skip
    shape, rest, of_b = "sync.aligned.m16n8k16", "", "%r5, %r6"
    if metadata is not None:
        shape, rest = "sp::ordered_metadata.sync.aligned.m16n8k32", f", %r9, {selector}"
        of_b = "%r5, %r6, %r7, %r8"
    body = f"""
        mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd10, %rd0; ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd11];
        mul.wide.u32 %rd12, %r0, {right.shape[1] * 2}; add.s64 %rd13, %rd12, %rd1;
        ld.global.v{right.shape[1] // 2}.u32 {{{of_b}}}, [%rd13];
        add.s64 %rd14, %rd10, %rd2; ld.global.v4.f32 {{%f1, %f2, %f3, %f4}}, [%rd14];
        mul.wide.u32 %rd15, %r0, 4; add.s64 %rd16, %rd15, %rd3; ld.global.u32 %r9, [%rd16];
        mma.{shape}.row.col.f32.{kind}.{kind}.f32
            {{%f1, %f2, %f3, %f4}}, {{%r1, %r2, %r3, %r4}}, {{{of_b}}}, {{%f1, %f2, %f3, %f4}}{rest};
        st.global.v4.f32 [%rd14], {{%f1, %f2, %f3, %f4}};"""
    result = execute(body, tensors).tensor("out", np.float32).reshape(32, 4)
    out = np.zeros((16, 8), np.float32)
    for lane, i in itertools.product(range(32), range(4)):
        out[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2] = result[lane, i]
    return out
