"""Kernels whose second stream has n:16 slabs in the place of 2:4 ones, and problems for them."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from masklearn.masks.kinds.of_sixteen import OfSixteen
from tests.oracles.element_packing import pack_of_sixteen, pack_slabs
from tests.plugins.host_kernel import BENCH
from tests.plugins.kernels.unpacked_slabs import codes_of
from tests.plugins.mosaic_cases import Case, answer
from tests.plugins.mutations import Mutation, broken_copy

__all__ = ["case_of_sixteen", "of_sixteen", "sources_with"]

sys.path.insert(0, str(BENCH))
of_sixteen = importlib.import_module("of_sixteen")


def sources_with(folder: Path, count: int, mutation: Mutation | None = None) -> Path:
    """Copy the plugin's sources and give the second stream the decoder of n = `count`; a mutation may break them."""
    plugins = broken_copy(folder, ("kernels", "host"), mutation)
    of_sixteen.put_of_sixteen(plugins, count)
    return plugins


def case_of_sixteen(
    count: int,
    tokens: int,
    shape: tuple[int, int],
    panel_rows: int,
    dtype: np.dtype,
    seed: int,
    share: float = 0.5,
) -> Case:
    """A mosaic in which `share` of the slabs keep `count` of 16 weights and the others all of them."""
    rng = np.random.default_rng(seed)
    pruned = rng.random((-(-shape[0] // panel_rows), -(-shape[1] // 64))) < share
    panels, slabs = pruned.shape
    codes = codes_of(count, rng, panels * panel_rows * slabs).reshape(panels * panel_rows, slabs * 4)
    kept = OfSixteen().keep(codes)
    inside = np.repeat(np.repeat(pruned, panel_rows, 0), 64, 1)
    weight = np.zeros(inside.shape, np.float32)
    weight[: shape[0], : shape[1]] = rng.standard_normal(shape, np.float32) / 8
    bits = np.where(~inside | kept, weight, 0).astype(dtype).view(np.uint16)
    packed = pack_slabs(np.where(inside, 0, bits), pruned, panel_rows)
    parts = [
        pack_of_sixteen(*(a[p * panel_rows :][:panel_rows, 64 * k :][:, :64] for a in (bits, kept)), count)
        for p, k in np.argwhere(pruned)
    ]
    values = np.array([values for values, _ in parts], np.uint16).reshape(-1, panel_rows * 4 * count)
    masks = np.array([masks for _, masks in parts], np.int32).reshape(-1, panel_rows * 2)
    x = rng.standard_normal((tokens, shape[1]), np.float32).astype(dtype)
    stored = bits[: shape[0], : shape[1]].view(dtype)
    expected, slack = answer(x, [stored], None, "", None, False)
    packed = replace(packed, shape=shape, sparse=values, meta=masks)
    return Case(packed, x.view(np.uint16), None, expected, slack, dtype)
