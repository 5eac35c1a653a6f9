"""The proof of a build: agreement of the hybrid with the pruned model, and figures of the loss of quality."""

import numpy as np
import pytest
import torch

from patch_compile.artifacts.proof import Agreement
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verification.compare_runs import GraphRuns, PrunedRuns
from patch_compile.verification.proof import check_agreement, with_window
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import verify
from tests.builds import build
from tests.families import write_family
from tests.refusals import refused


def runs(name, logits):
    ids = np.zeros(logits.shape[:2], np.int64)
    feed = {"input_ids": ids, "attention_mask": ids}
    return GraphRuns(name, [logits], [0.1], [feed], [{}], layers=30)


def pruned(logits, lost=0.0):
    return PrunedRuns("pruned checkpoint", [logits], [0.1], lost)


def test_rounding_passes_and_more_than_rounding_does_not():
    rng = np.random.default_rng(0)
    exact = (rng.standard_normal((1, 5, 100)) * 10).astype(np.float32)
    scale = np.abs(exact).max()
    tolerance = rounding_tolerance("float16", 30).share
    rounded = exact.copy()
    rounded[0, 2, 7] += 0.9 * tolerance * scale
    agreement = check_agreement(runs("hybrid", rounded), pruned(exact), "float16")
    assert agreement.error == pytest.approx(0.9 * tolerance, rel=1e-3)
    wrong = exact.copy()
    wrong[0, 2, 7] -= 1.1 * tolerance * scale
    with refused():
        check_agreement(runs("hybrid", wrong), pruned(exact), "float16")


def test_nan_is_never_agreement():
    exact = np.ones((1, 1, 4), np.float32)
    broken = exact.copy()
    broken[0, 0, 0] = np.nan
    with refused():
        check_agreement(runs("hybrid", broken), pruned(exact), "float16")


def test_choices_beyond_rounding_are_faults():
    exact = np.linspace(-1, 1, 100, dtype=np.float32).reshape(1, 1, 100)
    tolerance = rounding_tolerance("float16", 30).share
    right = runs("hybrid", exact)
    near = check_agreement(right, pruned(exact, 0.9 * tolerance), "float16")
    assert near.error == pytest.approx(0.9 * tolerance)
    with refused():
        check_agreement(right, pruned(exact, 1.1 * tolerance), "float16")


def test_the_window_is_judged_part_by_part():
    rng = np.random.default_rng(0)
    exact = (rng.standard_normal((1, 300, 50)) * 4).astype(np.float32)
    ids = rng.integers(0, 50, (1, 300))

    def window(logits):
        return GraphRuns("hybrid", [logits], [0.1], [{"input_ids": ids}], [{}], layers=30)

    found = Agreement(error=0.0, tolerance=rounding_tolerance("float16", 30), feeds=4)
    rounded = exact * np.float32(1.001)
    agreed = with_window(found, window(rounded), pruned(exact), "float16", unasked)
    assert (agreed.feeds, agreed.window.tokens) == (5, 300)
    assert agreed.error == pytest.approx(1e-3, rel=1e-3)
    for logits, perplexity in ((rounded, agreed.window.hybrid), (exact, agreed.window.pruned)):
        labels = torch.from_numpy(ids[0, 1:])
        mean = torch.nn.functional.cross_entropy(torch.from_numpy(logits[0, :-1]), labels)
        assert perplexity == pytest.approx(mean.exp().item(), rel=1e-5)
    wrong = exact.copy()
    wrong[0, 299, 7] += 0.5 * np.abs(exact).max()
    with refused():
        with_window(found, window(wrong), pruned(exact), "float16", lambda: found.tolerance)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_proofs_do_not_depend_on_the_memory(settings, tmp_path, monkeypatch, name):
    """Without memory for the model, each run reads its weights from the disk, and sentences are shorter."""
    monkeypatch.setattr("patch_compile.verification.proof.PROMPT", "the cat sat")
    if name == "mixtral":
        settings["model"] = write_family(tmp_path / "mixtral", name, num_hidden_layers=2)
    whole = build(settings | {"dtype": "bfloat16"})
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10_000_000})())
    streamed = build(settings | {"dtype": "bfloat16", "out": tmp_path / "streamed"})
    same = ("perplexity", "difference", "last_words", "text")
    assert [streamed[figure] for figure in same] == [whole[figure] for figure in same]
    for by in ("dense", "hybrid"):
        assert whole["generated"][by].startswith(streamed["generated"][by])
        assert len(whole["generated"][by]) > len(streamed["generated"][by]) > 0
    assert streamed["agreement"]["dense_error"] == whole["agreement"]["dense_error"]
    assert 0 < streamed["agreement"]["error"] <= streamed["agreement"]["tolerance"]["share"]
    window, expected = streamed["agreement"]["window"], whole["agreement"]["window"]
    assert window["pruned"] == expected["pruned"]
    assert window["hybrid"] == pytest.approx(expected["hybrid"], rel=1e-2)
    assert len(streamed["notes"]) == len(whole["notes"]) + 1
    assert any("reads the weights from the disk" in note for note in streamed["notes"])
    assert verify(tmp_path / "streamed", VerifyRequest.parse({"only": "compiled", "lengths": "1,7"})).passed


def unasked():
    raise AssertionError("rounding explains the error, so no tolerance is measured")
