"""The kernels as nvcc compiles them for every architecture of the plugin: registers, spills, instructions."""

import importlib
import json
from functools import cache

import pytest

from masklearn.masks.kinds.table import TWO_FOUR, kind_named
from masklearn.quant.table import W8A8
from patch_compile.hardware.cards import architecture_of
from patch_compile.planning.roofline import schedule
from patch_compile.planning.roofline.launch_work import occupancy
from patch_compile.plugin.targets import ARCHS
from tests.plugins.machine_code import (
    CUOBJDUMP,
    NO_CODE,
    NVCC,
    WHY_NO_CODE,
    KernelsOf,
    cubin,
    kernel_object,
    machine_code,
)
from tests.refusals import refused

sass, issue = map(importlib.import_module, ("sass", "issue"))

pytestmark = pytest.mark.skipif(NO_CODE, reason=WHY_NO_CODE)

# Bytes a thread may store to and load from local memory, all of them outside the loops over slabs; others none.
SPILLS = {
    "prefill-128": 16,
    "broad-64": 32,
    "all-decode-64": 128,
    "int8-mid-64": 92,  # of bf16; fp16 has none
    "int4-mid-64": 88,
    "w8a8-broad-128": 96,
    "w8a8-decode-128": 32,  # on sm_120
}
SIX_EIGHT = kind_named("6:8")
NAMES = [config.name for config in schedule.CONFIGS]
DENSE_PATH = "launch_dense_path.cu"


def marks(arch):
    """`make test-full` looks at the code of its plugin; `make mutate` compiles for the other architectures, some minutes."""
    return [] if arch == 80 else pytest.mark.mutation


every_binary = pytest.mark.parametrize(
    ("scalar", "arch"),
    [pytest.param(scalar, arch, marks=marks(arch)) for arch in ARCHS for scalar in cubin.SOURCES],
)


@pytest.fixture(scope="session")
def binary() -> KernelsOf:
    return cache(machine_code)


def test_counts_cover_the_plugins_architectures():
    assert cubin.ARCHS == ARCHS


@every_binary
def test_every_configuration_has_its_kernels(binary, scalar, arch):
    kinds = scalar.removesuffix("half").removesuffix("bfloat16").strip("_")
    own = {
        n
        for n, c in enumerate(schedule.CONFIGS)
        if kinds
        == (c.weights.name if c.weights.quantised else "all" if c.kinds > schedule.PATCH_KINDS else "")
    }
    assert set(binary(scalar, arch)) == own


@every_binary
def test_nothing_spills_beyond_its_budget(binary, scalar, arch):
    spilled = {NAMES[n]: kernel.spills for n, kernel in binary(scalar, arch).items()}
    assert {name: size for name, size in spilled.items() if size > SPILLS.get(name, 0)} == {}


@every_binary
def test_registers_allow_the_planned_blocks(binary, scalar, arch):
    for number, kernel in binary(scalar, arch).items():
        config = schedule.CONFIGS[number]
        fitting = occupancy(architecture_of(arch).rates, config, kernel.registers)
        assert config.blocks_per_sm <= fitting, config.name


@pytest.mark.parametrize(
    ("source", "arch"),
    [
        pytest.param(source, arch, marks=marks(arch))
        for arch in ARCHS
        for source in (*cubin.SOURCES, DENSE_PATH)
    ],
)
def test_launches_wait_for_earlier_ones(source, arch):
    """Code of architectures with early launches waits (ACQBULK), and only then reads or writes what is no constant, as the
    compiler orders it. Only kernels that another of the same enqueue follows let it begin (PREEXIT)."""
    name = cubin.SOURCES[source].name if source in cubin.SOURCES else source
    functions = cubin.functions_of(kernel_object(name, arch), CUOBJDUMP)
    waits = arch >= schedule.FIRST_THAT_WAITS
    for function, about in functions.items():
        opcodes = [i.opcode for i in about.code]
        followed = "patch_quantise" in function or "patch_unpack" in function
        assert (opcodes.count("ACQBULK"), opcodes.count("PREEXIT")) == (waits, waits and followed), function
        if waits:
            before = opcodes[: opcodes.index("ACQBULK")]
            used = [o for o in before if o.startswith(("LDG", "STG", "ATOM", "RED")) and ".CONSTANT" not in o]
            assert used == [] and "PREEXIT" not in before, function


@every_binary
def test_all_kernels_use_tensor_cores(binary, scalar, arch):
    """Products of other shapes or sums in fp16 would be another kernel than the one the tests on the CPU run."""
    if scalar.startswith("w8a8"):
        wanted = {"IMMA.16832.S8.S8", "IMMA.SP.16864.S8.S8"}
    else:
        end = ".BF16" if "bfloat16" in scalar else ""
        wanted = {name + end for name in ("HMMA.16816.F32", "HMMA.SP.16832.F32")}
    for number, kernel in binary(scalar, arch).items():
        # Streams multiply the middle windows of 6:8 slab by slab.
        alone = scalar.startswith("w8a8") and schedule.CONFIGS[number].streams
        own = wanted | ({"IMMA.SP.16832.S8.S8"} if alone else set())
        assert {i.opcode for i in kernel.code if "MMA" in i.opcode} == own, NAMES[number]


@every_binary
def test_slabs_cost_their_minimal_instructions(binary, scalar, arch):
    """No loop over slabs spills, and none has more products or loads than its slab needs."""
    for number, kernel in binary(scalar, arch).items():
        c = schedule.CONFIGS[number]
        row_blocks, token_blocks = c.panel_rows // 16 // c.feature_warps, c.tokens // 8 // c.token_warps
        for kind in schedule.kinds_of(c.weights)[: c.kinds]:
            counts = sass.count_slab(kernel.code, kind.name, c.weights)
            k_steps, name = (2, "HMMA.SP") if kind is TWO_FOUR else (4, "HMMA")
            if (
                kind is SIX_EIGHT
            ):  # the middle windows of two slabs are one product in tile kernels, or two in streams
                k_steps, name = 4 if c.streams else 3, "HMMA.SP"
            x_loads = {"LDSM": 2 * token_blocks}  # a matrix of X for every 8 columns, four at a time
            if c.weights is W8A8:
                k_steps, name = k_steps / 2, name.replace("H", "I")
                x_loads = {"LDS.128": token_blocks}  # all 64 columns of 8 tokens at once
            assert counts[name] == k_steps * row_blocks * token_blocks
            assert sum(counts[one] for one in counts if "MMA" in one) == counts[name]
            # Of a row block: values of W, metadata or masks, and scales.
            loads = sass.loads_of(kind.name, c.weights)
            for load in ("LDSM", "LDS.128", "LDS.64", "LDS"):
                assert counts[load] == loads.get(load, 0) * row_blocks + x_loads.get(load, 0), (c.name, load)
            loop = sass.loop_of(kernel.code, kind.name, c.weights)
            assert not [i for i in loop if i.opcode.startswith(("LDL", "STL"))], (c.name, kind.name)


kernels_of = pytest.mark.parametrize(
    "scalars",
    [("half", "all_half"), ("int8_half", "int4_half"), ("w8a8",)],
    ids=["16-bit", "integers", "w8a8"],
)


@kernels_of
def test_the_stored_counts_are_those_of_the_kernels(binary, scalars):
    """When this fails: `python benchmarks/kernels/issue.py`, `make docs`. Compilers differ in address arithmetic."""
    stored = json.loads(sass.JSON.read_text())["kernels"]
    assert set(stored) == {f"sm_{arch}" for arch in ARCHS}
    assert list(stored["sm_80"]) == [c.name for c in schedule.CONFIGS]
    for number, kernel in [pair for scalar in scalars for pair in binary(scalar, 80).items()]:
        config = schedule.CONFIGS[number]
        counts = stored["sm_80"][config.name]
        assert abs(kernel.registers - counts["registers"]) <= 8, config.name
        for kind in sass.kinds_of(config):
            fresh = sass.count_slab(kernel.code, kind, config.weights)
            assert abs(fresh.pop("other") - counts[kind]["other"]) <= 0.15 * counts[kind]["other"], (
                config.name
            )
            assert fresh == {name: count for name, count in counts[kind].items() if name != "other"}
            for geforce, cycles in enumerate(counts["cycles"][kind]):
                loop = issue.loop_figures(kernel, config, kind, 80, bool(geforce))
                assert abs(loop.cycles - cycles) <= 0.1 * cycles, config.name


@kernels_of
@pytest.mark.parametrize("arch", [pytest.param(arch, marks=marks(arch)) for arch in issue.BUDGET_ARCHS])
def test_the_loops_keep_their_budgets(binary, arch, scalars):
    """If a budget is broken for a good reason, run `python benchmarks/kernels/issue.py`."""
    budgets = json.loads(issue.BUDGETS.read_text())
    if budgets["nvcc"] != NVCC.version:
        pytest.skip(f"the budgets are for the code of nvcc {budgets['nvcc']}, and this is {NVCC.version}")
    figures = {}
    for scalar in scalars:
        figures |= issue.figures_of(binary(scalar, arch), arch)
    assert list(budgets[f"sm_{arch}"]) == NAMES
    for name, bounds in budgets[f"sm_{arch}"].items():
        if name not in figures:
            continue  # the other types' are looked at
        about = figures[name]
        assert about["registers"] <= bounds["registers"] and about["spills"] <= bounds["spills"], name
        for kind in sass.kinds_of(next(c for c in schedule.CONFIGS if c.name == name)):
            loop, bound = about[kind], bounds[kind]
            assert loop.cycles <= bound["cycles"], (name, kind)
            assert loop.stalls <= bound["stalls"], (name, kind)
            assert loop.instructions <= bound["instructions per product"] * loop.products, (name, kind)


def test_code_without_the_loop_is_refused():
    multiply = cubin.Instruction(0, "", "HMMA.16816.F32", " R0, R4, R8, R0 ")
    with refused(ValueError):
        sass.count_slab([multiply], "dense")
    back = cubin.Instruction(16, "@P0", "BRA", " 0x0 ")
    loads = [cubin.Instruction(at, "", "LDS.128", " R4, [R8] ") for at in range(4)]
    with refused(ValueError):
        sass.count_slab([*loads, multiply._replace(address=4), back], "dense")
