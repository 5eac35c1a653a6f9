"""The proof of a build: agreement of the hybrid with the pruned model, and figures of the loss of quality."""

import numpy as np
import pytest
import torch

from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verification.compare_runs import GraphRuns, PrunedRuns
from patch_compile.verification.proof import check_agreement, compare_logits
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
    dense = runs("dense", exact + 3)
    rounded = exact.copy()
    rounded[0, 2, 7] += 0.9 * tolerance * scale
    agreement = check_agreement(runs("hybrid", rounded), dense, pruned(exact), "float16")
    assert agreement.error == pytest.approx(0.9 * tolerance, rel=1e-3)
    assert agreement.dense_error == pytest.approx(3 / scale, rel=1e-3)
    wrong = exact.copy()
    wrong[0, 2, 7] -= 1.1 * tolerance * scale
    with refused():
        check_agreement(runs("hybrid", wrong), dense, pruned(exact), "float16")


def test_nan_is_never_agreement():
    exact = np.ones((1, 1, 4), np.float32)
    broken = exact.copy()
    broken[0, 0, 0] = np.nan
    with refused():
        check_agreement(runs("hybrid", broken), runs("dense", exact), pruned(exact), "float16")


def test_tolerance_follows_type_and_depth():
    assert rounding_tolerance("bfloat16", 8).share == pytest.approx(
        8 * rounding_tolerance("float16", 8).share
    )
    assert rounding_tolerance("float16", 32).share > rounding_tolerance("float16", 8).share


def test_choices_beyond_rounding_are_faults():
    exact = np.linspace(-1, 1, 100, dtype=np.float32).reshape(1, 1, 100)
    tolerance = rounding_tolerance("float16", 30).share
    right, dense = runs("hybrid", exact), runs("dense", exact)
    near = check_agreement(right, dense, pruned(exact, 0.9 * tolerance), "float16")
    assert near.error == pytest.approx(0.9 * tolerance)
    with refused():
        check_agreement(right, dense, pruned(exact, 1.1 * tolerance), "float16")


def saved(folder, name, logits):
    np.save(folder / f"{name}.npy", logits)
    return folder / f"{name}.npy"


def test_figures_are_those_of_torch(tmp_path):
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 50, (2, 9))
    dense, hybrid = (rng.standard_normal((2, 9, 50)).astype(np.float32) * 4 for _ in range(2))
    files = [
        [saved(tmp_path, f"{kind}{i}", logits[i]) for i in range(2)]
        for kind, logits in (("d", dense), ("h", hybrid))
    ]
    quality = compare_logits(files[0], files[1], windows)
    targets = torch.from_numpy(windows[:, 1:]).flatten()
    p, q = (torch.from_numpy(logits[:, :-1]).flatten(0, 1) for logits in (dense, hybrid))
    expected = [torch.nn.functional.cross_entropy(logits, targets).exp().item() for logits in (p, q)]
    assert quality.perplexity == pytest.approx(expected, rel=1e-5)
    kl = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="sum", log_target=True)
    assert quality.kl == pytest.approx(kl.item(), rel=1e-4)
    assert quality.same_top1 == (p.argmax(-1) == q.argmax(-1)).sum().item()
    assert quality.tokens == 16


def test_infinite_logits_are_reported(tmp_path):
    good, bad = np.zeros((3, 4), np.float32), np.full((3, 4), np.inf, np.float32)
    files = [saved(tmp_path, "good", good)], [saved(tmp_path, "bad", bad)]
    with refused():
        compare_logits(*files, np.zeros((1, 3), np.int64))
