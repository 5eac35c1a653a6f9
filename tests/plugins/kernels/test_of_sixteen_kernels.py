"""The kernels multiply dense and n:16 slabs of one panel, on the host emulation and as PTX."""

import json

import pytest

from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.kernels.of_sixteen_cases import case_of_sixteen, of_sixteen, sources_with
from tests.plugins.machine_code import CUOBJDUMP, NVCC
from tests.plugins.mosaic_cases import DTYPES
from tests.plugins.mutations import named
from tests.ptx.kernel import PtxKernel, compile_file

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

# One and two row blocks a warp, streams and tiles.
CONFIGS = {"decode-64": 0, "prefill-64": 2, "decode-128": 3}
# All but one of the rounds of copies of a 10:16 slab come from one tensor.
COUNTS = [10, pytest.param(8, marks=pytest.mark.mutation), pytest.param(12, marks=pytest.mark.mutation)]

DECODER, COPIES = "kernels/decode_of_sixteen.cuh", "kernels/copies.cuh"
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "masks of another row block": (DECODER, "/ 4 + m * 128)", "/ 4)"),
    "masks of another warp": (DECODER, "kValueBytes + at.fragment / 4", "kValueBytes + at.lane * 4"),
    "values of another row block": (DECODER, "slot + at.fragment + m * 512", "slot + at.fragment"),
    "values of the low row twice": (DECODER, "from + half * kPlane", "from"),
    "twos of another row block": (DECODER, "at.fragment / 2 + m * 256", "at.fragment / 2"),
    "twos exchanged": (DECODER, "= two[0], values_", "= two[1], values_"),
    "twos where fours would be": (DECODER, "load_shared_two(two, slot + kTwos", "load_shared_two(two, slot + kPlane"),
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
    "values for masks where both are in a round": (
        COPIES, "return within<Kind::kValueBytes, J>();", "return has_some<Kind>(J);",
    ),
}  # fmt: skip
OFTEN = ("as it is", "moved by two values at most", "values for masks where both are in a round")


def host_of(folder, cache, count, configs=tuple(CONFIGS), mutation=None):
    bits = sum(1 << CONFIGS[name] for name in configs)
    plugins = sources_with(folder, count, mutation)
    return plugins, compile_host_kernel(cache, plugins, (f"PATCH_HOST_CONFIGS={bits}",), opt="-O1")


def cases_of(count, rows, dtypes=DTYPES):
    for n, (tokens, shape, parts, share) in enumerate(
        [(5, (130, 324), 1, 0.5), (17, (130, 392), 7, 0.5), (3, (64, 1000), 3, 1.0), (16, (200, 64), 2, 0.3)]
    ):
        yield (
            case_of_sixteen(count, tokens, shape, rows, dtypes[n % len(dtypes)], tokens + parts, share),
            parts,
        )


@pytest.mark.parametrize("count", COUNTS)
def test_mosaics_of_dense_and_of_sixteen(tmp_path, library_cache, count):
    _, kernel = host_of(tmp_path, library_cache, count)
    for config, number in CONFIGS.items():
        for case, parts in cases_of(count, kernel.configs()[config].panel_rows):
            for mode in CopyMode:
                launch = Launch(number, DTYPES.index(case.dtype), parts, mode, seed=parts)
                assert case.worst(kernel.run(case.packed, case.x, None, launch)) <= 1, (config, parts)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("count", COUNTS)
def test_their_ptx(request, tmp_path, library_cache, count):
    plugins, host = host_of(tmp_path, library_cache, count)
    source = tmp_path / "decode_half.cu"
    source.write_text(of_sixteen.instances(tuple(CONFIGS)))
    text = compile_file(request.config.cache.mkdir("patch-ptx"), source, plugins, ("-arch=compute_80",))
    ptx = PtxKernel(host, {0: text})
    for config, number in CONFIGS.items():
        for case, parts in cases_of(count, host.configs()[config].panel_rows, DTYPES[:1]):
            y = ptx.run(case.packed, case.x, None, Launch(number, parts=parts, seed=parts))
            assert case.worst(y) <= 1, (config, parts)


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_a_broken_decoder_is_caught(tmp_path, library_cache, name):
    configs = ("decode-128",) if "round" not in name or "row block" in name else ("decode-64",)
    _, kernel = host_of(tmp_path, library_cache, 10, configs, MUTATIONS.get(name))
    caught = False
    for config in configs:
        for case, parts in cases_of(10, kernel.configs()[config].panel_rows):
            launch = Launch(CONFIGS[config], DTYPES.index(case.dtype), parts, CopyMode.MIXED, seed=parts)
            try:
                caught |= case.worst(kernel.run(case.packed, case.x, None, launch)) > 1
            except RuntimeError:
                caught = True
    assert caught != (name == "as it is")


@pytest.mark.mutation
@pytest.mark.skipif(NVCC is None or CUOBJDUMP is None, reason="no nvcc, or no cuobjdump with an nvdisasm")
@pytest.mark.parametrize("count", of_sixteen.COUNTS)
def test_unpacking_keeps_its_budgets(count):
    """If a budget is broken for a good reason, run `python benchmarks/kernels/of_sixteen.py --budgets FILE`."""
    budgets = json.loads(of_sixteen.BUDGETS.read_text())
    if budgets["nvcc"] != NVCC.version:
        pytest.skip(f"the budgets are for the code of nvcc {budgets['nvcc']}, and this is {NVCC.version}")
    found = of_sixteen.figures_of(count, budgets["sm"], NVCC.path, CUOBJDUMP)
    bounds = budgets["kinds"][f"{count}:16"]
    assert list(found) == list(bounds)
    for name, about in found.items():
        over = {k: getattr(about, k) for k, bound in bounds[name].items() if getattr(about, k) > bound}
        assert over == {}, name
