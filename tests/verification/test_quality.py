import numpy as np
import pytest
import torch

from patch_compile.errors import PatchCompileError
from patch_compile.verification.proof import compare_logits


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


def test_logits_that_are_not_finite_are_the_users_news(tmp_path):
    good, bad = np.zeros((3, 4), np.float32), np.full((3, 4), np.inf, np.float32)
    files = [saved(tmp_path, "good", good)], [saved(tmp_path, "bad", bad)]
    with pytest.raises(PatchCompileError, match="hybrid model's logits are not finite"):
        compare_logits(*files, np.zeros((1, 3), np.int64))
