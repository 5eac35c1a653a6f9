import importlib

import pytest

from tests.plugins.host_kernel import BENCH

assert BENCH.is_dir()  # host_kernel has put it on the path
gpu, sweep = map(importlib.import_module, ("gpu", "sweep"))

SMS, MHZ, TOKENS = 100, 1500.0, {"stream": 16, "tile": 128}


def row(config, tokens, parts, dense, sparse, *, panels=86, seconds=None, chosen=False, share=0.5):
    """A row that takes 3,000 clocks for the launch, 700 for a dense and 400 for a 2:4 slab, unless seconds says else."""
    tiles = -(-tokens // TOKENS[config])
    turns = tiles / min(parts, SMS) if parts > 1 else -(-panels * tiles // SMS) / panels
    clocks = 3000 + (700 * dense + 400 * sparse) * turns
    key = {"shape": [11008, 4096], "share": share, "tokens": tokens, "config": config, "parts": parts}
    figures = {"seconds": seconds or clocks / (MHZ * 1e6), "slabs": [dense, sparse], "panels": panels}
    return {"key": key, "chosen": chosen, "beyond": parts > SMS, **figures}


def test_clocks_of_a_slab_are_found():
    rows = [
        row("stream", tokens, parts, dense, 5504 - dense)
        for tokens in (1, 16, 64)
        for parts in (50, 100)
        for dense in (0, 2752, 5504)
    ]
    rows.append(row("stream", 1, 2, 5504, 0, seconds=1.0))  # two of a hundred SMs: left out
    rows.append(row("stream", 1, 2 * SMS, 5504, 0, seconds=1.0))  # the plugin never has so many parts
    found = sweep.slab_clocks([*rows, row("tile", 2048, 1, 0, 5504)], SMS, MHZ, TOKENS)
    assert set(found) == {"stream"}  # one row determines nothing
    fit = found["stream"]
    assert (fit["launch"], fit["dense"], fit["sparse"]) == pytest.approx((3000, 700, 400), rel=1e-6)
    assert fit["error"] < 1e-9 and fit["rows"] == 18


def test_partial_rounds_count_whole():
    """86 panels and 1 to 16 token tiles are 0.86 to 13.76 blocks an SM."""
    rows = [
        row("tile", 128 * tiles, 1, dense, 5504 - dense)
        for tiles in (1, 2, 5, 16)
        for dense in (0, 2752, 5504)
    ]
    fit = sweep.slab_clocks(rows, SMS, MHZ, TOKENS)["tile"]
    assert (fit["launch"], fit["dense"], fit["sparse"]) == pytest.approx((3000, 700, 400), rel=1e-6)


def test_the_fastest_stands_beside_the_choice():
    rows = [
        row("stream", 64, 100, 0, 100, seconds=3e-6, chosen=True),
        row("tile", 64, 1, 0, 100, seconds=2e-6),
        row("tile", 256, 1, 0, 100, seconds=2e-6),
    ]
    lines = sweep.best_table(rows).splitlines()
    assert (
        lines[2]
        == "| 11008×4096 | 16 bits | 0.5 | 64 | tile, 1 parts | 2.0 | stream, 100 parts | 3.0 | 1.50 |"
    )
    assert lines[3] == "| 11008×4096 | 16 bits | 0.5 | 256 | tile, 1 parts | 2.0 | not measured |  |  |"


def test_small_weights_have_more_copies_than_l2_holds():
    l2 = 50 << 20
    for one in (64 * 64 * 2, 896 * 128 * 2, 4096 * 4096 * 2, 200 << 20):
        copies = gpu.copies_beyond_l2(l2, one)
        assert (copies - 1) * one >= 2 * l2 > (copies - 2) * one


def test_missing_sensors_are_left_out():
    lines = ["1500, 1200, 250.5, 60\n", "1700, 1200, [N/A], 61\n", "1600, 1200, 251.5, [N/A]\n", "\n"]
    assert gpu.sensor_medians(lines) == {"sm_mhz": 1600, "memory_mhz": 1200, "watts": 251, "celsius": 60.5}
    assert gpu.sensor_medians([]) == {}
