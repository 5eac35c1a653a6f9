"""The decoder of n:16 slabs moves every bit to its place, on the host emulation and as PTX."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from masklearn.masks.kinds.families import OfSixteen
from tests.oracles.element_packing import in_fragments, pack_of_sixteen
from tests.plugins.compiled import compiled
from tests.plugins.host_kernel import COMPILER, HOST_FLAGS, PLUGINS
from tests.plugins.machine_code import NVCC
from tests.ptx.kernel import compile_file
from tests.ptx.machine import Machine
from tests.ptx.memory import Memory
from tests.ptx.parser import entry_names, parse_entry

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

CONFIGS = {"decode-64": (0, 64), "decode-128": (3, 128), "prefill-128": (5, 128)}
CASES = [(count, "decode-64") for count in (8, 12)] + [(12, "decode-128"), (8, "prefill-128")]
SLABS = 2

cases = pytest.mark.parametrize(("count", "config"), CASES)
_SHARED = 1 << 15  # bytes, more than any slab has
SOURCE = Path(__file__).with_name("unpack_slabs.cu")


class _Arguments(ctypes.Structure):
    _fields_ = [("packed", ctypes.c_void_p), ("fragments", ctypes.c_void_p), ("slabs", ctypes.c_int32)]


def codes_of(count: int, rng: np.random.Generator, rows: int) -> NDArray[np.uint16]:
    """Masks [rows, 4] of `count` bits: random bits, and in the first rows the lowest, the highest and alternating bits."""
    order = rng.random((rows, 4, 16)).argsort(-1)
    codes = ((order < count) << np.arange(16)).sum(-1).astype(np.uint16)
    low = (1 << count) - 1
    around = [(low << shift | low >> (16 - shift)) & 0xFFFF for shift in range(16)]
    edges = np.array([low, low << (16 - count), *around], np.uint16)
    codes.reshape(-1)[: len(edges)] = edges
    return codes


def packed_slabs(
    codes: NDArray[np.uint16], count: int, rng: np.random.Generator, panel_rows: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Slabs with these masks [slabs * panel_rows, 4] and values of any bits: as packed, and as dense fragments."""
    bits = rng.integers(0, 1 << 16, (len(codes), 64), np.uint16)
    kept = OfSixteen().keep(codes)
    words, fragments = [], []
    for at in range(0, len(codes), panel_rows):
        slab, its = bits[at : at + panel_rows], kept[at : at + panel_rows]
        values, masks = pack_of_sixteen(slab, its, count)
        words += [values.view(np.uint32), masks.view(np.uint32)]
        fragments.append(in_fragments(np.where(its, slab, 0)))
    return np.concatenate(words), np.concatenate(fragments)


class HostUnpacker:
    """The decoders on the CPU."""

    def __init__(self, cache: Path, plugins: Path = PLUGINS) -> None:
        assert COMPILER is not None
        flags = [*HOST_FLAGS, "-O1", "-DPATCH_HOST_EMULATION", "-I", str(plugins)]
        sources = [SOURCE, *plugins.glob("kernels/*.[ch]*"), *plugins.glob("host/*")]
        command = [COMPILER, *flags, "-x", "c++", str(SOURCE)]
        library = compiled(cache, command, COMPILER, sources, "unpack.so")
        self.lib = ctypes.CDLL(str(library))
        self.lib.unpack_error.restype = ctypes.c_char_p

    def run(self, config: int, count: int, words: NDArray[np.uint32], slabs: int) -> NDArray[np.uint16]:
        """Return the fragments of packed slabs, decoded by the warps of a configuration."""
        fragments = np.zeros(_values(words, count), np.uint16)
        call = _Arguments(words.ctypes.data, fragments.ctypes.data, slabs)
        if self.lib.unpack_on_host(config, count, ctypes.byref(call)):
            raise RuntimeError(self.lib.unpack_error().decode())
        return fragments


class PtxUnpacker:
    """The decoder as nvcc's PTX, which the interpreter runs."""

    def __init__(self, cache: Path) -> None:
        self.text = compile_file(cache, SOURCE, PLUGINS, ("-arch=compute_80",))

    def run(self, config: int, count: int, words: NDArray[np.uint32], slabs: int) -> NDArray[np.uint16]:
        """Return the fragments of packed slabs, decoded by the warps of a configuration."""
        (name,) = (name for name in entry_names(self.text) if f"ILi{config}ELi{count}E" in name)
        tensors = {"packed": words, "fragments": np.zeros(_values(words, count), np.uint16)}
        memory = Memory.holding(tensors, ("fragments",))
        call = _Arguments(memory.address("packed"), memory.address("fragments"), slabs)
        Machine(parse_entry(self.text, name), _SHARED).launch(1, bytes(call), memory)
        return memory.tensor("fragments", np.uint16).copy()


def _values(words: NDArray[np.uint32], count: int) -> int:
    """Values of the dense slabs: a row of `count` of 16 has 2 count + 2 words, and 64 values."""
    return words.size // (2 * count + 2) * 64


@pytest.fixture(scope="module")
def host(library_cache):
    return HostUnpacker(library_cache)


def slabs_of(count, config):
    rng = np.random.default_rng(count)
    rows = CONFIGS[config][1]
    return packed_slabs(codes_of(count, rng, SLABS * rows), count, rng, rows)


@cases
def test_every_kept_bit_reaches_its_place(host, count, config):
    words, fragments = slabs_of(count, config)
    np.testing.assert_array_equal(host.run(CONFIGS[config][0], count, words, SLABS), fragments)


@pytest.mark.parametrize("count", [8, 12])
def test_all_masks_of_a_count(host, count):
    """All masks of the count, some of them twice to fill the last slab."""
    every = np.arange(1 << 16)
    every = every[np.bitwise_count(every) == count].astype(np.uint16)
    slabs = -(-len(every) // 256)
    words, fragments = packed_slabs(np.resize(every, (slabs * 64, 4)), count, np.random.default_rng(0), 64)
    np.testing.assert_array_equal(host.run(CONFIGS["decode-64"][0], count, words, slabs), fragments)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@cases
def test_its_ptx_moves_every_bit_to_its_place(request, count, config):
    ptx = PtxUnpacker(request.config.cache.mkdir("patch-ptx"))
    words, fragments = slabs_of(count, config)
    np.testing.assert_array_equal(ptx.run(CONFIGS[config][0], count, words, SLABS), fragments)
