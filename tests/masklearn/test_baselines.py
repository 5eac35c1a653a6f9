from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from masklearn.baselines import (
    Baseline,
    beaten_by,
    compare_with_baselines,
    learn_baseline,
    measure,
    parse_baselines,
    run_baselines,
)
from masklearn.learning import learn
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.models import load_model
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.quality.perplexity import perplexity
from masklearn.quality.record import BaselineRow
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from masklearn.text.calibrate import token_pool
from tests.conftest import ModelMaker
from tests.refusals import refused

WINDOWS = np.random.default_rng(3).integers(0, 22, (3, 20))


def recipe(text_file: Path, **settings: Any) -> LearnRecipe:
    given = {
        "tile": (16, 16),
        "calib": str(text_file),
        "windows": 8,
        "length": 16,
        "ratio": 0.3,
        "device": "cpu",
    }
    return LearnRecipe(**(given | settings))


def row(name: str, ratio: float, value: float, deployable: bool = True) -> BaselineRow:
    return BaselineRow(
        name=name,
        ratio=ratio,
        perplexity=value,
        seconds=1.0,
        deployable=deployable,
        bytes_per_weight=2 - 1.75 * ratio,
    )


def test_every_baseline_has_a_row(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path, scratch = make_model(), tmp_path / "scratch"
    scratch.mkdir()
    calls: list[str] = []
    notes: list[str] = []
    rows = run_baselines(
        path,
        recipe(text_file),
        tuple(Baseline),
        WINDOWS,
        scratch,
        lambda what, *_: calls.append(what),
        notes.append,
    )
    assert [r.name for r in rows] == ["dense", "uniform-2:4", "unstructured"]
    assert notes == ["baseline dense-rounded: left out. It is the dense model. No weights are quantised."]
    found = {r.name: r for r in rows}
    assert found["dense"].ratio == 0.0
    assert found["uniform-2:4"].ratio == 0.5
    assert found["unstructured"].ratio == 0.3
    assert [r.name for r in rows if not r.deployable] == ["unstructured"]
    assert len({r.perplexity for r in rows}) == len(rows)  # all models differ
    dense = AutoModelForCausalLM.from_pretrained(path).eval()
    assert found["dense"].perplexity == perplexity(dense, WINDOWS)
    assert "uniform-2:4: perplexity" in calls
    assert not list(scratch.iterdir())


def test_a_baseline_is_what_its_flags_give(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    """`learn` gives the table's numbers with the flags in the module's docstring."""
    path, ours = make_model(), recipe(text_file, per_layer=True, repair="none")
    flags: dict[Baseline, dict[str, Any]] = {
        Baseline.UNIFORM: {"ratio": 0.5},
    }
    rows = run_baselines(path, ours, flags, WINDOWS, tmp_path / "scratch")
    for found, (name, settings) in zip(rows, flags.items(), strict=True):
        by_hand = recipe(
            text_file, **({"per_layer": True, "repair": "none", "method": "sparsegpt"} | settings)
        )
        learned = learn(path, by_hand, tmp_path / name.name)
        write_pruned_checkpoint(learned.checkpoint, learned.masks, tmp_path / name.name / "model")
        value = perplexity(load_model(tmp_path / name.name / "model"), WINDOWS)
        assert (found.perplexity, found.ratio) == (value, learned.masks.ratio)


def test_unstructured_zeroes_the_ratio_of_every_linear(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    checkpoint, ours = Checkpoint.open(make_model()), recipe(text_file, ratio="*=0.2,mlp.*=0.3")
    task = Task(
        checkpoint, covered_linears_of(checkpoint), ours, tmp_path / "s", lambda *_: None, lambda _: None
    )
    learned, ratio, _ = learn_baseline(Baseline.UNSTRUCTURED, task)
    assert 0.2 < ratio < 0.3
    for name, shape in task.coverage.linears.items():
        weight = learned.checkpoint.read(f"{name}.weight")
        assert abs((weight == 0).mean() - ratio) <= 0.5 / (shape[0] * min(shape[1], 128)) + 1e-12


def test_the_text_is_read_once(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    monkeypatch.setattr(
        "masklearn.task.token_pool", lambda *a, **k: (reads.append(1), token_pool(*a, **k))[1]
    )
    run_baselines(
        make_model(), recipe(text_file), [Baseline.UNIFORM, Baseline.UNSTRUCTURED], WINDOWS, tmp_path / "s"
    )
    assert reads == [1]


def test_compare_puts_the_result_first(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path, ours = make_model(), recipe(text_file, method="magnitude", ratio=0.25)
    learned = learn(path, ours, tmp_path / "learn")
    value = measure(learned, WINDOWS, tmp_path / "pruned", ours)
    compared = compare_with_baselines(
        path, ours, tmp_path / "pruned", learned.masks, 3.21, [Baseline.DENSE], WINDOWS, tmp_path / "scratch"
    )
    first, dense = compared.rows
    changed = {"seconds": 3.2, "bytes_per_weight": learned.masks.bytes_per_weight}
    assert first == row("magnitude", learned.masks.ratio, value).model_copy(update=changed)
    assert dense.name == "dense" and compared.beaten_by == ()
    assert (compared.windows, compared.length, compared.dtype) == (3, 20, "float32")


def test_a_baseline_beats_results_of_lower_ratio() -> None:
    other = row("uniform-2:4", 0.375, 80.0)
    assert beaten_by(row("wanda", 0.35, 90.0), [row("dense", 0.0, 22.0), other]) == ("uniform-2:4",)
    assert beaten_by(row("wanda", 0.45, 90.0), [other]) == ()  # a higher ratio excuses it
    assert beaten_by(row("oneshot", 0.375, 70.0), [other]) == ()
    assert beaten_by(row("wanda", 0.3753, 90.0), [other]) == ("uniform-2:4",)  # equal ratios, to one tile


def test_baselines_of_other_kinds_compare_by_bytes() -> None:
    """At a quarter of zeros 12:16 takes 1.625 bytes a weight, and dense and 2:4 tiles 1.5625."""

    def taking(name: str, ratio: float, value: float, taken: float) -> BaselineRow:
        return row(name, ratio, value).model_copy(update={"bytes_per_weight": taken})

    uniform = taking("uniform-2:4", 0.25, 30.0, 1.625)
    assert beaten_by(taking("oneshot", 0.25, 40.0, 1.5625), [uniform]) == ()
    equal_to_a_tile = taking("oneshot", 0.25, 40.0, 1.6245)
    assert beaten_by(equal_to_a_tile, [uniform]) == ("uniform-2:4",)
    assert beaten_by(taking("oneshot", 0.2, 40.0, 1.65), [uniform]) == ("uniform-2:4",)


def test_only_deployable_baselines_beat_a_result() -> None:
    better = [row("unstructured", 0.35, 30.0, deployable=False), row("dense", 0.35, 20.0)]
    assert beaten_by(row("oneshot", 0.35, 40.0), better) == ()
    assert beaten_by(row("oneshot", 0.35, 40.0), [row("uniform-2:4", 0.35, 39.0)]) == ("uniform-2:4",)


def test_names_from_the_command_line() -> None:
    assert parse_baselines("all") == tuple(Baseline)
    assert parse_baselines("uniform-2:4, dense,uniform-2:4") == (Baseline.UNIFORM, Baseline.DENSE)
    with refused():
        parse_baselines("dense,ffn")


def test_an_encoder_has_no_perplexity(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    with refused():
        run_baselines(make_model("bert"), recipe(text_file), [Baseline.DENSE], WINDOWS, tmp_path)


def test_half_precision_models_are_measured_as_stored(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path = make_model(dtype=torch.bfloat16)
    learned = learn(path, recipe(text_file, method="sparsegpt"), tmp_path / "s")
    value = measure(learned, WINDOWS, tmp_path / "m", recipe(text_file))
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    assert value == perplexity(stored, WINDOWS)
    assert Checkpoint.open(tmp_path / "m").entry("model.layers.0.mlp.up_proj.weight").dtype == "BF16"
