"""Runs one cell of the quality benchmark in a process of its own, so that its peak memory can be measured.

python -m benchmarks.quality.child SPEC_JSON OUT_FILE
"""

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from masklearn import (
    Baseline,
    Checkpoint,
    Learned,
    LearnRecipe,
    MaskSet,
    Task,
    WeightStore,
    covered_linears_of,
    first_windows,
    learn_baseline,
    learn_task,
    load_tokenizer,
    measure,
    repair_given,
)
from patch_compile.progress import Progress

MASKS, SOLVED = "masks.safetensors", "solved"


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Learn, and measure ratio, perplexity, seconds and peak memory; returns them with the records of training and repair.

    With masks it also returns the share of the weights in tiles of each kind, and the bytes of a packed weight.

    spec: model, recipe (settings of `LearnRecipe`), baseline or None, scratch, eval, eval_windows, eval_length; keep:
    folder that receives masks and weights, if there are masks; prior: such a folder of an earlier run, from which only the
    repair is done. The result equals the result of a whole run.
    """
    recipe, scratch = LearnRecipe.parse(spec["recipe"]), Path(spec["scratch"])
    checkpoint = Checkpoint.open(spec["model"])
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    progress = Progress()
    with progress.stage("learning") as update:
        task = Task(checkpoint, coverage, recipe, scratch / "scratch", update, progress.note)
        start = time.perf_counter()
        if "prior" in spec:
            prior = Path(spec["prior"])
            learned = repair_given(task, MaskSet.load(prior / MASKS), WeightStore(prior / SOLVED))
            ratio, taken = learned.masks.ratio, learned.masks.packed_bytes_per_weight
        elif spec["baseline"] is None:
            learned = learn_task(task)
            ratio, taken = learned.masks.ratio, learned.masks.packed_bytes_per_weight
        else:
            learned, ratio, taken = learn_baseline(Baseline(spec["baseline"]), task)
        seconds = time.perf_counter() - start
    peak = peak_gib()
    windows = first_windows(
        load_tokenizer(spec["model"]), spec["eval"], spec["eval_length"], spec["eval_windows"]
    )
    with progress.stage("perplexity") as update:
        value = measure(learned, windows, scratch / "model", recipe, update)
    if "keep" in spec and learned.masks and learned.checkpoint.new is not None:
        _keep(learned, Path(spec["keep"]))
    found: dict[str, Any] = {
        "reached": ratio,
        "perplexity": value,
        "seconds": round(seconds, 1),
        "peak_gib": round(peak, 2),
        "packed_bytes_per_weight": round(taken, 6),
    }
    if learned.masks:
        found |= _tiles(learned.masks)
    stored = learned.masks.record.as_metadata()
    records = {name: stored.get(name) for name in ("train", "repair")}
    return found | records | {"notes": progress.notes}


def _tiles(masks: MaskSet) -> dict[str, Any]:
    shares = {kind.name: round(weights / masks.weights, 6) for kind, weights in masks.by_kind().items()}
    return {"kinds": shares, "bytes_per_weight": round(masks.bytes_per_weight, 6)}


def _keep(learned: Learned, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    learned.masks.save(part / MASKS)
    assert learned.checkpoint.new is not None
    learned.checkpoint.new.copy_to(part / SOLVED)
    part.rename(folder)


def peak_gib() -> float:
    """Peak resident memory of this process in GiB. `ru_maxrss` would also count the parent's pages at the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(sys.argv[1]))), encoding="utf-8")
