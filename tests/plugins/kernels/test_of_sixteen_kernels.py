"""The kernels for all kinds of slabs with bugs in the decoder of n:16, which the emulation must notice.

Other tests show that they multiply mosaics of all kinds: in test_results.py, and as PTX in tests/ptx.
"""

import pytest

from tests.oracles.element_packing import KEPT
from tests.plugins.configs import CONFIGS
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.mosaic_cases import make_case
from tests.plugins.mutations import broken_copy, named

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

# One and two row blocks a warp.
NAMES = ("all-decode-64", "all-mid-64")

DECODER, COPIES = "kernels/decode_of_sixteen.cuh", "kernels/copies.cuh"
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "masks of another row block": (DECODER, "/ 4 + m * 128)", "/ 4)"),
    "masks of another warp": (DECODER, "kValueBytes + at.fragment / 4", "kValueBytes + at.lane * 4"),
    "values of another row block": (DECODER, "slot + at.fragment + m * 512", "slot + at.fragment"),
    "values of the low row twice": (DECODER, "from + half * kPlane", "from"),
    "fours where eights are": (DECODER, "load_shared(plane, from + kRest)", "load_shared(plane, from + kPlane)"),
    "the step at the edge has no values": (DECODER, "by >> 16);", "0x3210);"),
    "moved by two values at most": (DECODER, "by < 2 ? by : 2", "by < 1 ? by : 1"),
    "the last positions from the first value": (DECODER, "last ? 4 - four : four", "four"),
    "what is not kept is not cleared": (DECODER, " & shuffle(table_.clear, at)", ""),
    "the mask of the low row for both": (DECODER, "Step / 2 * 8 + half * 16", "Step / 2 * 8 + half * 0"),
    "the table of the first positions for all": (DECODER, "| 0x10001000u", "| 0u"),
    "even steps twice": (DECODER, "masks_[m] >> Step % 2 * 4", "masks_[m] >> 0"),
    "pairs exchanged": (DECODER, "a[(kLast ? 2 : 0) + half]", "a[(kLast ? 0 : 2) + half]"),
    "rows exchanged": (DECODER, "a[(kLast ? 0 : 2) + half] =", "a[(kLast ? 0 : 2) + 1 - half] ="),
    "a pair's second value beside a pruned first": (DECODER, "value(one, 2)", "value(1, 2)"),
    "one buffer": (DECODER, "weights_[Step % kBuffers][m];\n    PATCH", "weights_[0][m];\n    PATCH"),
    "the first step of the slab before": (DECODER, "m < G::kWarpRows; ++m) unpack<0>(m);", "m < 0; ++m) unpack<0>(m);"),
    "values for masks where both are in a round": (COPIES, "values_left_ > J * kRound ?", "bytes_left_ > J * kRound ?"),
}  # fmt: skip
OFTEN = ("as it is", "moved by two values at most")


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_a_broken_decoder_is_caught(tmp_path, library_cache, kernel, name):
    if name in MUTATIONS:
        plugins = broken_copy(tmp_path, ("kernels", "host"), MUTATIONS[name])
        bits = sum(1 << CONFIGS.index(config) for config in NAMES)
        # The decoder moves the bits of either type.
        defines = (f"PATCH_HOST_CONFIGS={bits}", "PATCH_HOST_SCALARS=1")
        kernel = compile_host_kernel(library_cache, plugins, defines, opt="-O1")
    caught = False
    for config in NAMES:
        for tokens, shape, parts in (
            (5, (130, 324), 1),
            (17, (130, 392), 7),
            (3, (64, 1000), 3),
            (16, (200, 64), 2),
        ):
            case = make_case(tokens, shape, 64, share=0.9, kinds=len(KEPT), seed=tokens)
            launch = Launch(CONFIGS.index(config), 0, parts, CopyMode.MIXED, seed=parts)
            try:
                caught |= case.worst(kernel.run(case.packed, case.x, case.bias, launch)) > 1
            except RuntimeError:
                caught = True
    assert caught != (name == "as it is")
