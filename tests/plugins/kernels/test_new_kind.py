"""A kind of slab that the kernels do not have: a row of kinds.h, a file with its decoder and its name are enough."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.element_packing import pack_slabs, prune_2_of_4
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.mosaic_cases import DTYPES, Case, answer
from tests.plugins.mutations import broken_copy

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

DECODER = Path(__file__).with_name("decode_float8.cuh")
STREAMS = "kernels/streams.cuh"
ROW = (STREAMS, "using Type = Dense16<T, G>;", "using Type = Float8<T, G>;")
CONFIGS = {"decode-64": 0, "prefill-64": 2}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, library_cache):
    plugins = broken_copy(tmp_path_factory.mktemp("new-kind"), ("kernels", "host"), ROW)
    shutil.copy(DECODER, plugins / "kernels")
    sizes = plugins / "kernels/kinds.h"
    sizes.write_text(sizes.read_text().replace('{"dense", 16, 0}', '{"dense", 8, 0}', 1))
    row = plugins / STREAMS
    row.write_text(
        row.read_text().replace("#pragma once", f'#pragma once\n#include "kernels/{DECODER.name}"', 1)
    )
    bits = sum(1 << number for number in CONFIGS.values())
    defines = (f"PATCH_HOST_CONFIGS={bits}", "PATCH_HOST_SCALARS=1")
    return compile_host_kernel(library_cache, plugins, defines, opt="-O1")


def case_of(tokens, shape, seed):
    """Tiles of 8-bit weights among 2:4 tiles of 16-bit weights; the 8 bits are the upper halves of fp16 values."""
    rng, dtype = np.random.default_rng(seed), DTYPES[0]
    sparse = rng.random((-(-shape[0] // 64), -(-shape[1] // 64))) < 0.5
    inside = np.repeat(np.repeat(sparse, 64, 0), 64, 1)[: shape[0], : shape[1]]
    weight = rng.standard_normal(shape, np.float32) / 8
    upper = weight.astype(dtype).view(np.uint16) & 0xFF00
    bits = np.where(inside, prune_2_of_4(weight, rng).astype(dtype).view(np.uint16), upper)
    packed = pack_slabs(bits, sparse, 64)
    halved = (packed.dense >> 8).astype(np.uint8).view(np.uint16)
    x = rng.standard_normal((tokens, shape[1]), np.float32).astype(dtype)
    expected, slack = answer(x, [bits.view(dtype)], None, "", None, False)
    return Case(replace(packed, dense=halved), x.view(np.uint16), None, expected, slack, dtype)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_kind_needs_only_its_decoder(kernel, config):
    for tokens, shape, parts in (
        (5, (130, 324), 1),
        (5, (130, 328), 7),
        (20, (64, 1000), 3),
        (3, (200, 64), 2),
    ):
        case = case_of(tokens, shape, seed=tokens + parts)
        for mode in CopyMode:
            launch = Launch(CONFIGS[config], parts=parts, mode=mode, seed=parts)
            assert case.worst(kernel.run(case.packed, case.x, None, launch)) <= 1, (config, tokens, shape)
