"""The page of a model whose row takes half an hour: what each row loses, and what it is predicted to gain on three cards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import patch_compile
from benchmarks.quality.entries import Entry
from masklearn import Baseline

TARGETS = {"a100-80": "A100-80", "a6000": "A6000", "rtx4090": "RTX 4090"}
_REQUEST = {"batch_size": 16, "prompt_tokens": 512, "generated_tokens": 1}
ABOUT = f"""Perplexity, its change from the dense model, the time of learning, its peak of memory, and the predicted
speed-up of this model over dense 16 bits in prefill of {_REQUEST["batch_size"]} × {_REQUEST["prompt_tokens"]} tokens, by
`patch-compile plan`, at the same ratio, kinds and weight types."""

Key = tuple[str, float | None]


def speeds(model: Path, entries: Sequence[Entry]) -> dict[Key, list[float]]:
    """Returns the predicted speed-ups of each entry on the TARGETS, none for tiles that are chosen by bytes."""
    found: dict[Key, list[float]] = {}
    for entry in entries:
        settings = entry.settings
        if "bytes_per_weight" in settings:
            continue
        asked: dict[str, Any] = {name: settings[name] for name in ("weights", "kinds") if name in settings}
        asked = {"kinds": "2:4"} | asked | {"ratio": settings.get("ratio", 0.0)}
        found[entry.method, entry.ratio] = [
            1.0
            if entry.baseline is Baseline.DENSE
            else patch_compile.plan(model, target=target, **_REQUEST, **asked).speedup
            for target in TARGETS
        ]
    return found


def table(rows: Sequence[Mapping[str, Any]], predicted: Mapping[Key, Sequence[float]]) -> str:
    """Returns the table of the rows that are measured, in their order, in Markdown."""
    dense = next((row["perplexity"] for row in rows if row["method"] == "dense"), None)
    header = ["", "ratio", "perplexity", "change", "minutes", "GiB", *TARGETS.values()]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        gains = predicted.get((row["method"], row["ratio"]), ())
        change = "" if dense is None else f"{row['perplexity'] / dense - 1:+.1%}"
        cells = [
            row["method"],
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{row['perplexity']:.2f}",
        ]
        cells += [change, f"{row['seconds'] / 60:.0f}", f"{row['peak_gib']:.1f}"]
        lines.append([*cells, *(f"{gain:.2f}×" for gain in gains), *([""] * (len(TARGETS) - len(gains)))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
