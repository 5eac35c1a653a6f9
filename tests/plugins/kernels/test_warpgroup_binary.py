"""The kernel for Hopper as nvcc compiles it for sm_90a: registers, spills, serialized products, instructions."""

import subprocess
from functools import cache

import pytest

from tests.plugins.machine_code import CUOBJDUMP, NO_CODE, NVCC, WHY_NO_CODE, cubin
from tests.ptx.kernel import SCALARS
from tests.ptx.warpgroup_kernel import WARPGROUP_CONFIGS, WarpgroupKernel, compile_warpgroups

pytestmark = pytest.mark.skipif(NO_CODE, reason=WHY_NO_CODE)

SUFFIXES = ("", ".BF16")  # of products, by scalar type
# `make test-full` takes the PTX that test_warpgroup_kernels.py runs, and compiles it for the kernel that takes least.
every_kernel = pytest.mark.parametrize(
    ("scalar", "config"),
    [
        pytest.param(
            scalar,
            config,
            id=f"{about.name}-{SCALARS[scalar]}",
            marks=[pytest.mark.mutation] * (scalar + config > 0),
        )
        for scalar in range(len(SCALARS))
        for config, about in enumerate(WARPGROUP_CONFIGS)
    ],
)


@pytest.fixture(scope="module")
def built(request, tmp_path_factory):
    """built(scalar, config) returns what nvcc says of a kernel, and the kernel as machine code."""
    text = compile_warpgroups(request.config.cache.mkdir("patch-ptx"))
    source = tmp_path_factory.mktemp("warpgroups") / "all.ptx"
    source.write_text(text)
    entries = WarpgroupKernel(text).entries()

    @cache
    def made(scalar, config):
        binary = source.with_name(f"{scalar}-{config}.cubin")
        only = f"-Xptxas=-e,{entries[scalar, config]}"
        command = [NVCC.path, "-cubin", "-arch=sm_90a", only, source, "-o", binary]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (kernel,) = cubin.functions_of(binary, CUOBJDUMP).values()
        return done.stdout + done.stderr, kernel

    return made


@every_kernel
def test_nothing_spills_and_no_products_are_serialized(built, scalar, config):
    """The kernel has the registers of a block of 384 threads; setmaxnreg moves them from the warps that copy to the others.

    ptxas says so where it serializes products or ignores a setmaxnreg.
    """
    said, kernel = built(scalar, config)
    assert said == ""
    assert (kernel.stack, kernel.local_bytes("STL"), kernel.local_bytes("LDL"), kernel.registers) == (
        0,
        0,
        0,
        168,
    )


@every_kernel
def test_every_kernel_multiplies_both_kinds_by_warpgroups(built, scalar, config):
    _, kernel = built(scalar, config)
    about = WARPGROUP_CONFIGS[config]
    opcodes = [i.opcode for i in kernel.code]
    tokens = about.tokens // about.token_warps
    products = [
        f"HGMMA{form}.64x{tokens}x{depth}.F32{SUFFIXES[scalar]}" for form, depth in (("", 16), (".SP", 32))
    ]
    assert {o for o in opcodes if "MMA" in o} == set(products)
    # Four products of 16 columns for a dense slab, two of 32 for a 2:4 slab; a gate and an up have loops of their own.
    assert [opcodes.count(product) for product in products] == [4 * (1 + about.gated), 2 * (1 + about.gated)]


@every_kernel
def test_products_overlap_the_next_loads(built, scalar, config):
    """The loops over slabs wait for all but one group of products; only their ends wait for the last."""
    _, kernel = built(scalar, config)
    waits = [i.operands.split()[-1] for i in kernel.code if i.opcode == "WARPGROUP.DEPBAR.LE"]
    loops = 2 * (1 + WARPGROUP_CONFIGS[config].gated)
    assert (waits.count("0x1"), waits.count("0x0")) == (2 * loops, loops)


@every_kernel
def test_slabs_come_by_bulk_copies(built, scalar, config):
    _, kernel = built(scalar, config)
    opcodes = [i.opcode for i in kernel.code]
    assert sum(o.startswith("UBLKCP") for o in opcodes) == 3  # dense; kept values and metadata
    assert sum(o.startswith("USETMAXREG") for o in opcodes) == 2
