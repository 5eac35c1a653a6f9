"""The kernel for Hopper as nvcc compiles it for sm_90a: registers, spills, serialized products, instructions."""

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from patch_compile.plugin.toolchain import code_flags
from tests.plugins.host_kernel import PLUGINS
from tests.plugins.machine_code import CUOBJDUMP, NVCC, cubin

pytestmark = pytest.mark.skipif(
    NVCC is None or CUOBJDUMP is None, reason="no nvcc, or no cuobjdump with an nvdisasm"
)

UNIT = PLUGINS / "kernels" / "launch_warpgroup.cu"
TYPES = {"Half": "", "BFloat16": ".BF16"}
TOKENS = (128, 256, 128, 256)  # of a product, by configuration
_FIGURES = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.S,
)
_KERNEL = re.compile(r"patch_warpgroupsINS_\d+(\w+?)ELi(\d)E")


@pytest.fixture(scope="module")
def built(request):
    """Returns the output of nvcc and the path of the machine code. Both are kept between test runs."""
    folder = request.config.cache.mkdir("patch-cubin")
    flags = [*cubin.FLAGS, *code_flags(UNIT, (90,))]
    digest = hashlib.sha256(" ".join([*flags, NVCC.version]).encode())
    for source in sorted(PLUGINS.glob("kernels/*")):
        digest.update(source.name.encode() + source.read_bytes())
    binary = folder / f"warpgroup-{digest.hexdigest()[:20]}.cubin"
    said = binary.with_suffix(".txt")
    if not said.exists():
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            fresh = Path(tmp) / binary.name
            command = [str(NVCC.path), *flags, "-I", str(PLUGINS), str(UNIT), "-o", str(fresh)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            fresh.replace(binary)
        said.write_text(done.stdout + done.stderr)
    return said.read_text(), binary


@pytest.fixture(scope="module")
def code(built):
    """Instructions by type and configuration."""
    found = {}
    for name, instructions in cubin.functions_of(built[1], CUOBJDUMP).items():
        scalar, config = _KERNEL.search(name).groups()
        found[scalar, int(config)] = instructions
    return found


def test_nothing_spills_and_no_products_are_serialized(built):
    """Registers are those of a block of 384 threads; setmaxnreg moves them from the warps that copy to the others."""
    said, _ = built
    assert "serialized" not in said and "C75" not in said
    assert "setmaxnreg" not in said  # ptxas says so where it ignores one
    figures = {name: tuple(map(int, numbers)) for name, *numbers in _FIGURES.findall(said)}
    assert len(figures) == len(TYPES) * len(TOKENS)
    assert set(figures.values()) == {(0, 0, 0, 168)}


def test_every_kernel_multiplies_both_kinds_by_warpgroups(code):
    assert set(code) == {(scalar, config) for scalar in TYPES for config in range(len(TOKENS))}
    for (scalar, config), instructions in code.items():
        opcodes = [i.opcode for i in instructions]
        products = [
            f"HGMMA{form}.64x{TOKENS[config]}x{depth}.F32{TYPES[scalar]}"
            for form, depth in (("", 16), (".SP", 32))
        ]
        assert {o for o in opcodes if "MMA" in o} == set(products)
        # Four products of 16 columns for a dense slab, two of 32 for a 2:4 slab; a gate and an up have loops of their own.
        streams = 1 + (config == 2)
        assert [opcodes.count(product) for product in products] == [4 * streams, 2 * streams]
        assert not [o for o in opcodes if o.startswith(("LDL", "STL"))]


def test_products_stay_in_flight_while_the_next_weights_are_loaded(code):
    """The loops over slabs wait for all but one group of products; only their ends wait for the last."""
    for instructions in code.values():
        waits = [i.operands.split()[-1] for i in instructions if i.opcode == "WARPGROUP.DEPBAR.LE"]
        products = sum(i.opcode.startswith("HGMMA") for i in instructions)
        loops = products // 6 * 2
        assert (waits.count("0x1"), waits.count("0x0")) == (2 * loops, loops)


def test_slabs_come_by_bulk_copies_and_registers_change_hands(code):
    for instructions in code.values():
        opcodes = [i.opcode for i in instructions]
        assert sum(o.startswith("UBLKCP") for o in opcodes) == 3  # dense; kept values and metadata
        assert sum(o.startswith("USETMAXREG") for o in opcodes) == 2
