"""The chunked losses and their gradients equal the plain formulas."""

import pytest
import torch
from torch import Tensor

from masklearn.model.modules import LogitRule
from masklearn.training import head
from masklearn.training.head import Head, Labels, Teacher, head_loss

TOKENS, HIDDEN, WORDS = 23, 8, 50


def random_head(seed: int, softcap: float | None, *, bias: bool, scale: float = 1.0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(WORDS, HIDDEN, generator=generator, dtype=torch.float64).requires_grad_()
    offset = torch.randn(WORDS, generator=generator, dtype=torch.float64).requires_grad_() if bias else None
    return Head(weight, offset, LogitRule(scale, softcap))


def hidden_states(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64).requires_grad_()


def cross_entropy(hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
    return head_loss(hidden, head, [(1.0, Labels(labels))])[0]


def kl_divergence(hidden: Tensor, head: Head, teacher_hidden: Tensor, teacher_head: Head) -> Tensor:
    return head_loss(hidden, head, [(1.0, Teacher(teacher_hidden, teacher_head))])[0]


def plain_logits(hidden: Tensor, head: Head) -> Tensor:
    results = hidden @ head.weight.T + (0.0 if head.bias is None else head.bias)
    scale, cap = (1.0, None) if head.rule is None else (head.rule.scale, head.rule.cap)
    return results * scale if cap is None else cap * torch.tanh(results * scale / cap)


def plain_kl(hidden: Tensor, student: Head, other: Tensor, teacher: Head) -> Tensor:
    target = plain_logits(other, teacher).detach().softmax(-1)
    return (target * (target.log() - plain_logits(hidden, student).log_softmax(-1))).sum() / TOKENS


def gradients(loss: Tensor, hidden: Tensor, head: Head) -> list[Tensor]:
    wanted = [hidden, head.weight, *([] if head.bias is None else [head.bias])]
    return list(torch.autograd.grad(loss, wanted))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK", 7)  # the last chunk is smaller


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (3.0, 1.0), (None, 0.3), (3.0, 0.3)])
def test_kl_is_the_plain_one(softcap: float | None, scale: float, bias: bool) -> None:
    hidden, other = hidden_states(1), hidden_states(2)
    student, teacher = (random_head(seed, softcap, bias=bias, scale=scale) for seed in (3, 4))
    chunked, plain = kl_divergence(hidden, student, other, teacher), plain_kl(hidden, student, other, teacher)
    assert chunked.item() == pytest.approx(plain.item(), rel=1e-5)
    for ours, theirs in zip(
        gradients(3.0 * chunked, hidden, student), gradients(3.0 * plain, hidden, student), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy_is_the_plain_one(softcap: float | None) -> None:
    hidden, student = hidden_states(1), random_head(3, softcap, bias=True)
    labels = torch.randint(0, WORDS, (TOKENS,), generator=torch.Generator().manual_seed(0))
    chunked = cross_entropy(hidden, student, labels)
    plain = torch.nn.functional.cross_entropy(plain_logits(hidden, student), labels)
    assert chunked.item() == pytest.approx(plain.item(), rel=1e-5)
    for ours, theirs in zip(
        gradients(chunked, hidden, student), gradients(plain, hidden, student), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_two_targets_add_up() -> None:
    hidden, other, student, teacher = (
        hidden_states(1), hidden_states(2), random_head(3, None, bias=False), random_head(4, None, bias=False)
    )  # fmt: skip
    labels = torch.arange(TOKENS)
    total, losses = head_loss(hidden, student, [(0.5, Labels(labels)), (2.0, Teacher(other, teacher))])
    alone = cross_entropy(hidden, student, labels), kl_divergence(hidden, student, other, teacher)
    assert losses == pytest.approx([loss.item() for loss in alone], rel=1e-6)
    torch.testing.assert_close(
        gradients(total, hidden, student),
        gradients(0.5 * alone[0] + 2.0 * alone[1], hidden, student),
        rtol=1e-5,
        atol=1e-6,
    )


def test_under_autocast_it_is_the_same_to_bf16() -> None:
    hidden, other = (hidden_states(seed).float().detach().requires_grad_() for seed in (1, 2))
    student, teacher = (Head(random_head(seed, None, bias=False).weight.float()) for seed in (3, 4))
    exact = kl_divergence(hidden, student, other, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        rough = kl_divergence(hidden, student, other, teacher)
    assert rough.dtype is torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    ours, theirs = (torch.autograd.grad(loss, hidden)[0] for loss in (rough, exact))
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_no_more_than_a_chunk_of_logits_exists() -> None:
    """A tensor of all tokens' logits would be among the tensors that autograd saves."""
    hidden, student = hidden_states(1), random_head(3, None, bias=False)
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kl_divergence(hidden, student, hidden_states(2), random_head(4, None, bias=False))
    assert kept and (TOKENS, WORDS) not in kept
