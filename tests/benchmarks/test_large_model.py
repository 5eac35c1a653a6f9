"""The page of a large model holds its losses and its own predicted speeds."""

from pathlib import Path

from benchmarks.quality.entries import entries_of_large
from benchmarks.quality.large_model import TARGETS, speeds, table

_MODEL = Path("samples/configs/llama-2-7b")


def test_speeds_are_of_each_rows_tiles():
    wanted = ("dense", "dense, w8a8", "oneshot, no repair, kinds auto", "oneshot, no repair, permuted, w8a8")
    entries = [one for one in entries_of_large() if one.method in wanted and one.ratio in (None, 0.45)]
    found = speeds(_MODEL, entries)
    assert set(found) == {
        ("dense", None),
        ("dense, w8a8", None),
        ("oneshot, no repair, permuted, w8a8", 0.45),
    }
    assert found["dense", None] == [1.0] * len(TARGETS)
    pruned, rounded = found["oneshot, no repair, permuted, w8a8", 0.45], found["dense, w8a8", None]
    assert all(one > other > 1.0 for one, other in zip(pruned, rounded, strict=True))


def test_rows_show_loss_and_speed():
    about = {"ratio": None, "seconds": 120.0, "peak_gib": 3.04}
    rows = [{"method": "dense", "perplexity": 10.0, **about}, {"method": "a", "perplexity": 11.0, **about}]
    lines = table(rows, {("a", None): [1.0, 1.5, 2.0]}).splitlines()
    assert lines[2:] == [
        "| dense |  | 10.00 | +0.0% | 2 | 3.0 |  |  |  |",
        "| a |  | 11.00 | +10.0% | 2 | 3.0 | 1.00× | 1.50× | 2.00× |",
    ]
