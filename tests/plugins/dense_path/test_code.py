"""The dense path's kernels as nvcc compiles them: PTX run by the interpreter, registers and instructions per GPU."""

import re

import numpy as np
import pytest

from patch_compile.plugin.targets import ARCHS
from tests.oracles.element_packing import KEPT, W8A8
from tests.plugins.dense_path_cases import MARKS
from tests.plugins.dense_plugin import (
    Activate,
    DensePlugin,
    Unpack,
    compile_driver,
    index_on_device,
    slab_tensors,
)
from tests.plugins.machine_code import CUOBJDUMP, NO_CODE, WHY_NO_CODE, cubin, kernel_object, ptx_text
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, make_case
from tests.ptx.kernel import SCALARS
from tests.ptx.machine import Machine
from tests.ptx.memory import Memory
from tests.ptx.parser import entry_names, parse_entry

pytestmark = [*MARKS, pytest.mark.skipif(NO_CODE, reason=WHY_NO_CODE)]

SOURCE = "launch_dense_path.cu"
UNPACK_SHARED = 16  # kUnpackShared


@pytest.fixture(scope="session")
def plugin(library_cache, tmp_path_factory):
    return DensePlugin(compile_driver(library_cache), tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="session")
def machines():
    """Kernels of the source by their template arguments: unpack64, activateHalf1 and so on."""
    text = ptx_text(SOURCE)
    found = {}
    for name in entry_names(text):
        rows = re.search(r"patch_unpack(|_bytes)ILi(\d+)E", name)
        integers = re.search(r"patch_unpack_integersINS_\d+(\w+?)ELNS_7WeightsE([13])E", name)
        activate = re.search(r"patch_activateINS_\d+([A-Z]\w*?)EE", name)
        key = f"unpack{rows[1]}{rows[2]}" if rows else "unpack" if integers else "activate"
        key += "".join((integers or activate).groups()) if integers or activate else ""
        found[key] = Machine(parse_entry(text, name), 0 if activate else UNPACK_SHARED)
    return found


def test_every_kernel_is_there(machines):
    activations = {f"activate{scalar}" for scalar in SCALARS}
    integers = {f"unpack{scalar}{integers}" for scalar in SCALARS for integers in (1, 3)}
    rows = {f"unpack{kind}{rows}" for kind in ("", "_bytes") for rows in (64, 128)}
    assert set(machines) == rows | integers | activations


@pytest.mark.parametrize(
    ("panel_rows", "gated", "integers"),
    [
        (64, False, 0),
        (64, True, 0),
        (128, True, 0),
        (128, False, 0),
        (64, False, 1),
        (64, True, 3),
        (64, True, W8A8),
        (128, False, W8A8),
    ],
)
def test_ptx_unpacks_what_the_emulation_unpacks(plugin, machines, panel_rows, gated, integers):
    """All pieces in any order of blocks; test_results.py and test_integers.py hold the emulation to the packer."""
    for seed, (shape, share) in enumerate([((304, 580), 0.5), ((64, 64), 0.0), ((136, 260), 1.0)]):
        of_type = 3 if integers == W8A8 else len(KEPT)
        kinds = of_type if seed != 1 and (panel_rows == 64 or integers) else 2
        packed = make_case(
            1, shape, panel_rows, share=share, gated=gated, kinds=kinds, integers=integers, dtype=DTYPES[seed % 2],
            seed=seed,
        ).packed  # fmt: skip
        widened = f"unpack{SCALARS[seed % 2]}{integers}"
        whole = f"unpack{'_bytes' if integers else ''}{panel_rows}"
        machine = machines[whole if integers in (0, W8A8) else widened]
        panels, slabs = packed.panels, -(-shape[1] // 64)
        for first, count in ((0, panels), (panels - 1, 1)):
            expected = plugin.unpack(packed, first, count, seed % 2)
            tensors = slab_tensors(packed) | {"index": index_on_device(packed)}
            memory = Memory.holding(tensors | {"weight": np.full_like(expected, 0x55)}, ("weight",))
            addresses = {name: memory.address(name) for name in (*tensors, "weight")}
            arguments = Unpack.of(packed, addresses, first, count, seed % 2)
            machine.launch(count * -(-slabs // 4), bytes(arguments), memory, seed)
            assert (memory.tensor("weight", expected.dtype).reshape(expected.shape) == expected).all()


def turned(sides):
    """Columns `[…, sides, columns]` as products have them: by turns of 8."""
    *lead, count, columns = sides.shape
    return sides.reshape(*lead, count, columns // 8, 8).swapaxes(-3, -2).reshape(*lead, count * columns)


def activated(z, bias, residual, activation, gated):
    """Expected Y [tokens, features] in float64, of z [tokens, sides, features] and bias [sides, features] or None."""
    z = z.astype(np.float64) + (0 if bias is None else bias.astype(np.float64))
    y = ACTIVATIONS[activation](z[:, 0])
    y = y * z[:, 1] if gated else y
    return y if residual is None else y + residual.astype(np.float64)


@pytest.mark.parametrize("integers", [False, True], ids=["products", "sums"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_in_both(plugin, machines, activation, dtype, gated, integers):
    """Columns are all of Y, more than one block's, a middle piece, or the last of a row; with and without a bias.

    Sums of integers have scales of rows, of which a gate's and an up's take turns, and of tokens.
    """
    scalar = DTYPES.index(dtype)
    machine = machines[f"activate{SCALARS[scalar]}"]
    for tokens, columns, out, start, more in (
        (3, 2304, 2304, 0, True),
        (5, 40, 104, 64, True),
        (2, 64, 128, 0, False),
    ):
        rng = np.random.default_rng(tokens)
        stride, sides = -(-columns // 64) * 64, 1 + gated
        z = (3 * rng.standard_normal((tokens, sides, stride))).astype(dtype)
        given = {"z": turned(z)}
        if integers:
            sums = rng.integers(-(2**26), 2**26, z.shape, np.int32)
            rows = rng.standard_normal((sides, stride), np.float32) / 2**12
            of_tokens = rng.random(tokens, np.float32) / 2**12
            z = sums.astype(np.float32) * rows * of_tokens[:, None, None]
            given = {"z": turned(sums), "scales": turned(rows), "token_scales": of_tokens}
        bias = rng.standard_normal((sides, out)).astype(dtype) if more else None
        residual = rng.standard_normal((tokens, out)).astype(dtype) if more else None
        here = slice(start, start + columns)
        expected = activated(
            z[:, :, :columns], None if bias is None else bias[:, here],
            None if residual is None else residual[:, here], activation, gated,
        )  # fmt: skip
        given |= {"bias": bias, "residual": residual, "y": np.full((tokens, out), 0x7E01, np.uint16)}
        given = {
            name: np.ascontiguousarray(tensor).view(np.uint16 if tensor.itemsize == 2 else tensor.dtype)
            for name, tensor in given.items()
            if tensor is not None
        }
        sizes = (tokens, columns, sides * stride, out, gated, list(ACTIVATIONS).index(activation))
        memory = Memory.holding(given, ("y",))
        arguments = Activate(*[None] * 6, *sizes)
        for name in given:
            beginning = 2 * start if name in ("bias", "residual", "y") else 0
            setattr(arguments, name, memory.address(name) + beginning)
        blocks = tokens * -(-columns // 8 // 256)
        machine.launch(blocks, bytes(arguments), memory, tokens)
        results = [memory.tensor("y", np.uint16).reshape(tokens, out)]
        if start == 0:
            results.append(plugin.activate(given, Activate(*[None] * 6, *sizes), scalar))
        for y in results:
            assert (np.delete(y, np.arange(out)[here], 1) == 0x7E01).all()
            got = y[:, here].view(dtype).astype(np.float64)
            unit = 2.0 ** -(11 if scalar == 0 else 8)
            # The activations' own error grows with values before gate and residual (mosaic_cases).
            sizes_of_z = np.abs(z[:, :, :columns].astype(np.float64)) + (3 if more else 0)
            most = 1 + sizes_of_z.prod(1) + (3 if more else 0)
            assert (np.abs(got - expected) <= unit * np.abs(expected) + 2.0**-18 * most + 2.0**-24).all()


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[] if arch == 80 else pytest.mark.mutation) for arch in ARCHS]
)
def test_nothing_spills_and_memory_is_moved_in_vectors(arch):
    kernels = cubin.functions_of(kernel_object(SOURCE, arch), CUOBJDUMP)
    assert len(kernels) == 10
    for name, kernel in kernels.items():
        assert kernel.stack == 0, name
        assert kernel.registers <= 80, name  # 3 blocks of 256 threads an SM
        forms = (i.opcode.partition(".") for i in kernel.code)
        opcodes = [(kind, form) for kind, _, form in forms if kind in ("STG", "STL", "LDL", "LDG")]
        assert {kind for kind, _ in opcodes} == {"STG", "LDG"}, name
        assert all("128" in form for kind, form in opcodes if kind == "STG"), name
        if "activate" in name:
            # All but the scale of the token.
            assert sum("128" not in form for kind, form in opcodes if kind == "LDG") == 1, name
