"""Random mosaics through packing, the ONNX function's body and the kernels.

`Mosaic.of` draws the problem of a seed. Each problem must pass these checks:

1. Packing decodes to W∘M bit for bit, also from integers and scales, and a slab is of a kind exactly where all tiles that
   it touches are.
2. ONNX Runtime runs the function's body within the error bound of fp32 sums, from float64.
3. The kernels, built for the host, do too, and give the same bits in another order of blocks and of copies.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, KINDS
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import unpack
from patch_compile.packing.quantised import unpack_quantised
from tests.attacks.attack import BUILD, Attack
from tests.attacks.random_problem import Linear, Mosaic, padded
from tests.oracles import integer_packing as packer
from tests.oracles.element_packing import OfSixteen, Packed
from tests.packing.test_function import one_linear, run
from tests.plugins.host_kernel import (
    COMPILER,
    CopyMode,
    HostKernel,
    Launch,
    compile_byte_kernel,
    compile_host_kernel,
    compile_integer_kernel,
)
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, Case, without_panels

_COUNT = 3000
_NUMBERS = {INT8: packer.INT8, W8A8: packer.W8A8, INT4: packer.INT4}


def faults(seed: int, kernels: Sequence[HostKernel]) -> Iterator[str]:
    """Yield the errors in the problem of a seed, with the command that replays it.

    kernels: for weights of 16 bits, for int8 and int4, and for w8a8; none to run none.
    """
    mosaic = Mosaic.of(seed)
    for check in (_packing, _function, partial(_kernels, kernels)):
        for fault in _found(check, mosaic):
            yield f"{fault} ({mosaic}); replay: python -m tests.attacks mosaics --only {seed}"


def _found(check: Callable[[Mosaic], Iterator[str]], mosaic: Mosaic) -> Iterator[str]:
    """Yield what a check finds. An error that escapes from the program is a fault too, and the next check goes on."""
    try:
        yield from check(mosaic)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        yield f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error}"


def _packing(mosaic: Mosaic) -> Iterator[str]:
    packed, height = mosaic.packed, mosaic.panel_rows
    bits = _decoded(mosaic)
    rows = padded(bits, -(-len(bits) // height) * height)
    numbers, _ = packed.places()
    grid = np.array([kind.code for kind in packed.kinds], np.uint8)[numbers]
    slabs: dict[
        int, NDArray[np.uint8]
    ] = {}  # kinds of a panel's slabs, of which linears that take turns have the same
    for linear, own in zip(mosaic.linears, mosaic.places, strict=True):
        every = own.packed(len(own.panels) * own.height(height), height)
        if not np.array_equal(rows[every[: len(linear.pruned)]], linear.pruned.view(np.uint16)):
            yield "packing does not decode to W∘M bit for bit"
        if rows[every[len(linear.pruned) :]].any():
            yield "what lies beyond the rows is not zero"
        try:
            weight = linear.weight if mosaic.weights else linear.weight.view(np.uint16)
            check_packed("it", packed, weight, linear.mask, own)
        except InvariantError as error:
            yield f"the compiler's own check refuses: {error}"
        for panel, codes in zip(own.panels.tolist(), _slabs(linear, own.height(height)), strict=True):
            other = slabs.get(panel, codes)
            slabs[panel] = np.where(other == codes, codes, np.uint8(DENSE.code))
    if not np.array_equal(grid, np.stack([slabs[panel] for panel in range(len(grid))])):
        yield "a slab is of a kind where a tile that it touches is not, or the reverse"


def _decoded(mosaic: Mosaic) -> NDArray[np.uint16]:
    """Returns the bits of the weights that the packed tensors encode."""
    if mosaic.weights is None:
        return unpack(mosaic.packed)
    integers, scales = unpack_quantised(mosaic.packed, mosaic.x.dtype)
    return Grid(mosaic.weights, scales).values(integers, mosaic.x.dtype).view(np.uint16)


def _slabs(linear: Linear, height: int) -> NDArray[np.uint8]:
    """The codes of the kinds of slabs, weight by weight."""
    codes = linear.code_of_weight
    whole = [-(-size // step) * step for size, step in zip(codes.shape, (height, 64), strict=True)]
    grids = []
    for beyond, reduce in ((255, np.min), (0, np.max)):
        filled = np.full(whole, beyond, np.uint8)
        filled[: codes.shape[0], : codes.shape[1]] = codes
        grids.append(reduce(filled.reshape(-1, height, whole[1] // 64, 64), axis=(1, 3)))
    return np.where(grids[0] == grids[1], grids[0], np.uint8(DENSE.code))


def _number(mosaic: Mosaic) -> int:
    """The number of the weight type in plugins/kernels/weights.h."""
    return 0 if mosaic.weights is None else _NUMBERS[mosaic.weights]


def _number_of(kind: TileKind, mosaic: Mosaic) -> int:
    """The number of a kind among the kinds of the weight type, as the kernels count."""
    return [one for one in KINDS if one.goes_with(mosaic.weights or FLOAT16)].index(kind)


def _function(mosaic: Mosaic) -> Iterator[str]:
    dtype = mosaic.x.dtype.type
    model = one_linear(
        mosaic.packed, dtype, mosaic.bias, epilogue=mosaic.epilogue, out_features=mosaic.out_features
    )
    residual = None if mosaic.residual is None else mosaic.residual[None]
    y = run(model, mosaic.x[None], dtype, residual)[0]
    if (worst := _case(mosaic).worst(y.view(np.uint16))) > 1:
        yield f"ONNX Runtime is off by {worst:.3g} of the bound"
    elif mosaic.bits is not None and not np.array_equal(y.view(np.uint16), mosaic.bits):
        yield "ONNX Runtime gives other bits than exact sums"


def _case(mosaic: Mosaic) -> Case:
    """The problem as the kernels take it, with its answer."""
    packed, (y, slack) = mosaic.packed, mosaic.answer
    shape = mosaic.out_features, mosaic.x.shape[1]
    tensors = packed.dense, packed.sparse, packed.meta, packed.index
    others = tuple(OfSixteen(_number_of(one.kind, mosaic), one.values, one.codes) for one in packed.others)
    return Case(
        Packed(
            shape, mosaic.panel_rows, *tensors, mosaic.epilogue.gated, others, _number(mosaic), packed.scales
        ),
        mosaic.x.view(np.uint16),
        None if mosaic.bias is None else mosaic.bias.view(np.uint16),
        y,
        slack,
        mosaic.x.dtype,
        None if mosaic.residual is None else mosaic.residual.view(np.uint16),
        list(ACTIVATIONS).index(mosaic.epilogue.activation),
        mosaic.bits,
    )


def _kernel_of(mosaic: Mosaic) -> int:
    """The place of the mosaic's kernels in the argument of `faults`."""
    return 0 if mosaic.weights is None else 2 if mosaic.weights is W8A8 else 1


def _kernels(kernels: Sequence[HostKernel], mosaic: Mosaic) -> Iterator[str]:
    if not kernels:
        return
    weights, kernel = _number(mosaic), kernels[_kernel_of(mosaic)]
    needed = max(_number_of(kind, mosaic) for kind in mosaic.packed.kinds) + 1
    case, rng = _case(mosaic), np.random.default_rng(mosaic.seed)
    fitting = [
        number
        for number, config in enumerate(kernel.configs().values())
        if config.panel_rows == mosaic.panel_rows and config.kinds >= needed and config.weights == weights
    ]
    if not fitting:
        return  # n:16 in panels of 128 rows, which the kernels don't have
    if mosaic.epilogue.overload in ("", "bias") and mosaic.fusion == "alone" and rng.random() < 0.4:
        keep = np.repeat(rng.random(len(mosaic.places[0].panels)) < 0.5, mosaic.panel_rows)[
            : case.packed.shape[0]
        ]
        case = without_panels(case, keep)
    config, parts = int(rng.choice(fitting)), int(rng.integers(1, 9))
    launches = [
        Launch(config, DTYPES.index(case.dtype), parts, CopyMode(int(mode)), int(rng.integers(1, 2**31)))
        for mode in rng.choice(3, 2, replace=False)
    ]
    results = [kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue) for launch in launches]
    if (worst := case.worst(results[0])) > 1:
        yield f"{list(kernel.configs())[config]} in {parts} parts is off by {worst:.3g} of the bound"
    elif case.bits is not None and not np.array_equal(results[0], case.bits):
        yield f"{list(kernel.configs())[config]} gives other bits than exact sums"
    if not np.array_equal(results[0], results[1]):
        yield f"{list(kernel.configs())[config]} gives other bits in another order of blocks or copies"


def attack(*, only: Sequence[str] = ()) -> list[Attack]:
    """Compute the problems of seeds that the tests do not take. only: these seeds."""
    BUILD.mkdir(parents=True, exist_ok=True)
    compilers = (compile_host_kernel, compile_integer_kernel, compile_byte_kernel)
    kernels = [compiled(BUILD) for compiled in compilers] if COMPILER else []
    seeds = [*map(int, only)] or range(1000, 1000 + _COUNT)
    wrong = [" | ".join(found) for seed in seeds if (found := list(faults(seed, kernels)))]
    return [Attack("random mosaics, packed and computed", len(seeds), tuple(wrong))]
