"""The interpreter's ldmatrix and movmatrix, against the rows of shared memory that they read."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.instructions import Tensors, execute


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_come_from_rows_of_shared_memory(transposed: bool) -> None:
    """ldmatrix.x4: lane 8j + i names row i of matrix j; movmatrix transposes one."""
    values = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    tensors: Tensors = {
        "in": values,
        "out": np.zeros((32, 4), np.uint32),
        "out_moved": np.zeros(32, np.uint32),
    }
    body = f"""
        mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd10, %rd0; add.s64 %rd12, %rd10, %rd1;
        ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd11];
        mov.u32 %r5, pool; shl.b32 %r6, %r0, 4; xor.b32 %r7, %r6, 16; add.s32 %r8, %r5, %r7;
        st.shared.v4.u32 [%r8], {{%r1, %r2, %r3, %r4}}; bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4{".trans" if transposed else ""}.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r8];
        st.global.v4.u32 [%rd12], {{%r1, %r2, %r3, %r4}};
        movmatrix.sync.aligned.m8n8.trans.b16 %r9, %r2;
        mul.wide.u32 %rd13, %r0, 4; add.s64 %rd14, %rd13, %rd2; st.global.u32 [%rd14], %r9;"""
    memory = execute(body, tensors, shared=512)
    got = memory.tensor("out", np.uint16).reshape(8, 4, 4, 2)  # group, quad, matrix, value
    expected = values.transpose(0, 2, 1) if transposed else values
    np.testing.assert_array_equal(got.transpose(2, 0, 1, 3).reshape(4, 8, 8), expected)
    moved = memory.tensor("out_moved", np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(moved, expected[1].T)
