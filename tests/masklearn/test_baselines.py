from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from masklearn.baselines import (
    Baseline,
    beside_baselines,
    compare_with_baselines,
    learn_baseline,
    measure,
    parse_baselines,
    run_baselines,
)
from masklearn.model.models import load_model
from masklearn.quality.perplexity import perplexity
from masklearn.quality.record import BaselineRow
from masklearn.text.calibrate import token_pool
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.refusals import refused

SETTINGS = {"tile": (16, 16), "windows": 8, "ratio": 0.3, "device": "cpu"}
WINDOWS = np.random.default_rng(3).integers(0, 22, (3, 20))


def run(tiny: Tiny, model: Path, names: Iterable[Baseline], **settings: Any) -> list[BaselineRow]:
    recipe, scratch = tiny.recipe(**settings), tiny.folder / "baselines"
    return list(run_baselines(model, recipe, names, WINDOWS, scratch))


def row(name: str, ratio: float, value: float, taken: float | None = None) -> BaselineRow:
    return BaselineRow(
        name=name,
        ratio=ratio,
        perplexity=value,
        seconds=1.0,
        deployable=name != "unstructured",
        bytes_per_weight=2 - 1.75 * ratio if taken is None else taken,
    )


def test_every_baseline_has_a_row(make_model: ModelMaker, tiny: Tiny, tmp_path: Path) -> None:
    path, scratch = make_model(), tmp_path / "scratch"
    scratch.mkdir()
    calls: list[str] = []
    notes: list[str] = []
    given = (path, tiny.recipe(repair="distill"), tuple(Baseline), WINDOWS, scratch)
    rows = run_baselines(*given, lambda what, *_: calls.append(what), notes.append)
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


def test_a_baseline_is_what_its_flags_give(make_model: ModelMaker, tiny: Tiny) -> None:
    """`learn` gives the table's numbers with the flags in the module's docstring."""
    path = make_model()
    (found,) = run(tiny, path, [Baseline.UNIFORM], per_layer=True)
    learned = tiny.learn(path, method="sparsegpt", per_layer=True, ratio=0.5)
    value = perplexity(load_model(tiny.prune(learned).path), WINDOWS)
    assert (found.perplexity, found.ratio) == (value, learned.masks.ratio)


def test_unstructured_zeroes_the_ratio_of_every_linear(make_model: ModelMaker, tiny: Tiny) -> None:
    task = tiny.task(make_model(), ratio="*=0.2,mlp.*=0.3")
    learned, ratio, _ = learn_baseline(Baseline.UNSTRUCTURED, task)
    assert 0.2 < ratio < 0.3
    for name, shape in task.coverage.linears.items():
        weight = learned.checkpoint.read(f"{name}.weight")
        assert abs((weight == 0).mean() - ratio) <= 0.5 / (shape[0] * min(shape[1], 128)) + 1e-12


def test_the_text_is_read_once(make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(
        "masklearn.task.token_pool", lambda *a, **k: (reads.append(1), token_pool(*a, **k))[1]
    )
    run(tiny, make_model(), [Baseline.UNIFORM, Baseline.UNSTRUCTURED])
    assert reads == [1]


def test_compare_puts_the_result_first(make_model: ModelMaker, tiny: Tiny, tmp_path: Path) -> None:
    path, settings = make_model(), {"method": "magnitude", "ratio": 0.25}
    learned, ours = tiny.learn(path, **settings), tiny.recipe(**settings)
    value = measure(learned, WINDOWS, tmp_path / "pruned", ours)
    compared = compare_with_baselines(
        path, ours, tmp_path / "pruned", learned.masks, 3.21, [Baseline.DENSE], WINDOWS, tmp_path / "b"
    )
    first, dense = compared.rows
    changed = {"seconds": 3.2, "bytes_per_weight": learned.masks.bytes_per_weight}
    assert first == row("magnitude", learned.masks.ratio, value).model_copy(update=changed)
    assert dense.name == "dense" and compared.beaten_by == ()
    assert (compared.windows, compared.length, compared.dtype) == (3, 20, "float32")


# Of 12:16 at a quarter of zeros: 1.625 bytes a weight, where dense and 2:4 tiles take 1.5625.
UNIFORM, MILD = row("uniform-2:4", 0.375, 80.0), row("uniform-2:4", 0.25, 30.0, 1.625)


@pytest.mark.parametrize(
    ("result", "baseline", "beaten"),
    [
        (row("wanda", 0.35, 90.0), UNIFORM, True),
        (row("wanda", 0.45, 90.0), UNIFORM, False),  # a higher ratio excuses it
        (row("oneshot", 0.375, 70.0), UNIFORM, False),
        (row("wanda", 0.3753, 90.0), UNIFORM, True),  # equal ratios, to one tile
        (row("oneshot", 0.25, 40.0, 1.5625), MILD, False),
        (row("oneshot", 0.25, 40.0, 1.6245), MILD, True),  # equal bytes, to one tile
        (row("oneshot", 0.2, 40.0, 1.65), MILD, True),
        (row("oneshot", 0.35, 40.0), row("unstructured", 0.35, 30.0), False),  # no kernel runs it
        (row("oneshot", 0.35, 40.0), row("dense", 0.35, 20.0), False),
    ],
)
def test_a_better_baseline_of_no_more_bytes_beats_a_result(
    result: BaselineRow, baseline: BaselineRow, beaten: bool
) -> None:
    assert beside_baselines(result, [baseline], WINDOWS).beaten_by == ((baseline.name,) if beaten else ())


def test_names_from_the_command_line() -> None:
    assert parse_baselines("all") == tuple(Baseline)
    assert parse_baselines("uniform-2:4, dense,uniform-2:4") == (Baseline.UNIFORM, Baseline.DENSE)
    with refused():
        parse_baselines("dense,ffn")


def test_an_encoder_has_no_perplexity(make_model: ModelMaker, tiny: Tiny) -> None:
    with refused():
        run(tiny, make_model("bert"), [Baseline.DENSE])


def test_half_precision_models_are_measured_as_stored(
    make_model: ModelMaker, tiny: Tiny, tmp_path: Path
) -> None:
    path, ours = make_model(dtype=torch.bfloat16), {"method": "sparsegpt"}
    value = measure(tiny.learn(path, **ours), WINDOWS, tmp_path / "m", tiny.recipe(**ours))
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").eval()
    assert stored.dtype is torch.bfloat16 and value == perplexity(stored.float(), WINDOWS)
