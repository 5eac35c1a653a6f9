"""An ONNX file gives transformers' answers up to rounding, whatever texts are scored together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from patch_compile.artifacts.folder import OutFolder
from patch_compile.verification.tasks import models
from patch_compile.verification.tasks.loading import load_tasks
from patch_compile.verification.tasks.models import open_model
from patch_compile.verification.tasks.run import offline, quiet_harness
from tests.builds import recipe_alone
from tests.conftest import WORDS
from tests.refusals import refused

PAIRS = [
    ("the cat sat on", " a mat"),
    ("", "dog ran far"),
    ("<s> big red", " house in the rain while"),
    ("birds sang ", "in the rain"),
    ("the cat " * 20, "ran far"),  # longer than the model's reach
    ("a", " cat"),
    ("the cat sat on", " a dog"),
]


@pytest.fixture(scope="module")
def onnx(tiny_out: OutFolder) -> Iterator[Any]:
    with open_model(tiny_out, "pruned", "onnx", 0, lambda *_: None) as model:
        yield model


@pytest.fixture(scope="module")
def hf(tiny_out: OutFolder) -> Iterator[Any]:
    with quiet_harness(), open_model(tiny_out, "pruned", "hf", 0, lambda *_: None) as model:
        yield model


def asked(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_likelihoods(onnx: Any, hf: Any) -> None:
    requests = asked("loglikelihood", PAIRS)
    with quiet_harness():
        ours, theirs = onnx.loglikelihood(requests), hf.loglikelihood(requests)
    for (likelihood, greedy), (expected, expected_greedy) in zip(ours, theirs, strict=True):
        assert likelihood == pytest.approx(expected, abs=0.05)
        assert greedy == expected_greedy
    assert len({round(likelihood, 3) for likelihood, _ in ours}) == len(PAIRS)


def test_greedy_marks_the_models_own_choice(onnx: Any) -> None:
    """Only the word that the model would write is greedy. A random model also writes ids without a word."""
    said = 0
    for context in WORDS[:8]:
        text = onnx.generate_until(asked("generate_until", [(context, {"max_gen_toks": 1})]))[0].strip()
        scores = onnx.loglikelihood(asked("loglikelihood", [(context, f" {word}") for word in WORDS[:-1]]))
        greedy = [word for word, (_, is_greedy) in zip(WORDS[:-1], scores, strict=True) if is_greedy]
        assert greedy == [text] * (text in WORDS[:-1])
        said += len(greedy)
    assert said


def test_rolling_likelihoods_cover_long_texts(onnx: Any, hf: Any) -> None:
    requests = asked("loglikelihood_rolling", [("the cat sat on a mat",), ("big red dog ran far " * 20,)])
    with quiet_harness():
        expected = hf.loglikelihood_rolling(requests)
    assert onnx.loglikelihood_rolling(requests) == pytest.approx(expected, abs=0.5)
    assert expected[1] < 10 * expected[0]


def test_continuations(onnx: Any, hf: Any) -> None:
    settings = {"max_gen_toks": 5, "until": ["dog", "house"]}
    contexts = ["the cat", "big red birds", "rain " * 40, "far from"]
    requests = asked("generate_until", [(context, settings) for context in contexts])
    with quiet_harness():
        expected = hf.generate_until(requests)
    assert [text.split() for text in onnx.generate_until(requests)] == [text.split() for text in expected]


def test_drawn_continuations_repeat(onnx: Any) -> None:
    settings = {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0}
    requests = asked("generate_until", [("the cat", settings)])
    assert onnx.generate_until(requests) == onnx.generate_until(requests)


def test_a_score_does_not_depend_on_its_company(onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked("loglikelihood", PAIRS)
    together = [likelihood for likelihood, _ in onnx.loglikelihood(requests)]
    monkeypatch.setattr(models, "_MOST", 1)
    alone = [likelihood for likelihood, _ in onnx.loglikelihood(requests)]
    assert together == pytest.approx(alone, abs=0.02)
    backwards = [likelihood for likelihood, _ in onnx.loglikelihood(requests[::-1])]
    assert backwards[::-1] == pytest.approx(alone, abs=0.02)


def test_memory_sets_the_batch() -> None:
    assert models.rows_at_once(20, 50_000) == 16
    assert models.rows_at_once(400, 50_000) == 3
    assert models.rows_at_once(8192, 150_000) == 1


@pytest.mark.parametrize("settings", [{"num_beams": 4, "max_gen_toks": 4}, {"max_gen_toks": 32}])
def test_what_it_can_not_generate_is_refused(onnx: Any, settings: dict[str, Any]) -> None:
    with refused():
        onnx.generate_until(asked("generate_until", [("the cat", settings)]))


@pytest.mark.model
def test_the_sample_model_scores_the_same_on_both(sample_model: Path, tmp_path: Path) -> None:
    """Here the dense model is scored; `run_tasks` scores the pruned model likewise."""
    from lm_eval.evaluator import evaluate

    out = recipe_alone(tmp_path / "out", sample_model)
    found = {}
    with quiet_harness(), offline():
        for backend in ("hf", "onnx"):
            tasks = load_tasks(["builtin"], None)
            with open_model(out, "dense", backend, 0, lambda *_: None) as model:
                found[backend] = evaluate(model, tasks, limit=8, bootstrap_iters=0)["samples"]
    for task in found["hf"]:
        pairs = list(zip(found["hf"][task], found["onnx"][task], strict=True))
        scores = [
            [item["resps"][i][0][0] for item in pair] for pair in pairs for i in range(len(pair[0]["resps"]))
        ]
        assert all(onnx == pytest.approx(hf, abs=0.1) for hf, onnx in scores)
    right = [item["acc"] for item in found["onnx"]["builtin-choice"]]
    assert sum(right) >= 4  # chance is 2
