"""Losses over the vocabulary in chunks of tokens: the logits of a text never exist at once.

A chunk's gradient is computed with its value, so no logits are kept or made again for the backward pass (as in Liger
kernels, arXiv 2410.10989): logits of SmolLM2 for 2 x 512 tokens are 200 MB in fp32, and plain autograd keeps four such.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from masklearn.stream.logits import Softcap, token_kl, token_nll

__all__ = ["Head", "Labels", "Target", "Teacher", "head_loss"]

# Tokens whose logits exist at once. On 2 cores 128 is fastest: 25 MB of fp32 logits over 49k words stay in the cache.
_CHUNK = 128


class Head(NamedTuple):
    """An output head: weight `[vocabulary, hidden]`, bias `[vocabulary]`; softcap: of Gemma 2, cap·tanh(logits/cap)."""

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> "Head":
        """The head of a transformers language model."""
        linear = model.get_output_embeddings()
        softcap = Softcap.of(model.config)
        return cls(linear.weight, linear.bias, None if softcap is None else softcap.cap)

    def cast(self, dtype: torch.dtype) -> "Head":
        """The same head, detached, to compute in `dtype`."""
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return Head(self.weight.detach().to(dtype), bias, self.softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 `[tokens, vocabulary]`."""
        logits = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias).float()
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


class Target(Protocol):
    """What the student's distribution over the vocabulary is compared with."""

    def prepare(self, dtype: torch.dtype) -> None:
        """Once before the first chunk; dtype: that of the head's matmul."""

    def loss(self, place: slice, log_student: Tensor) -> Tensor:
        """Sum over a chunk's tokens, a scalar; log_student: log-probabilities `[chunk, vocabulary]`."""

    def subtract(self, gradient: Tensor, weight: float) -> None:
        """Take `weight` times the target's probabilities of the latest chunk from `gradient` `[chunk, vocabulary]`."""


class Labels:
    """The tokens that do come, int64 `[tokens]`: cross-entropy."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels
        self._chunk = labels[:0, None]

    def prepare(self, dtype: torch.dtype) -> None:
        """Nothing to do."""

    def loss(self, place: slice, log_student: Tensor) -> Tensor:
        """Summed negative log-likelihood."""
        self._chunk = self._labels[place, None]
        return token_nll(log_student, self._labels[place]).sum(dtype=torch.float64)

    def subtract(self, gradient: Tensor, weight: float) -> None:
        """One-hot."""
        gradient.scatter_add_(1, self._chunk, gradient.new_full(self._chunk.shape, -weight))


class Teacher:
    """Another model's distribution, from what enters its head, `[tokens, hidden]`: KL(teacher ‖ student)."""

    def __init__(self, hidden: Tensor, head: Head) -> None:
        self._hidden, self._head = hidden.detach(), head
        self._probabilities = hidden

    def prepare(self, dtype: torch.dtype) -> None:
        """The head in the matmul's type."""
        self._head = self._head.cast(dtype)

    def loss(self, place: slice, log_student: Tensor) -> Tensor:
        """Summed KL divergence."""
        log_teacher = self._head.logits(self._hidden[place]).log_softmax(dim=-1)
        self._probabilities = log_teacher.exp()
        return token_kl(log_teacher, log_student, self._probabilities).sum(dtype=torch.float64)

    def subtract(self, gradient: Tensor, weight: float) -> None:
        """The teacher's probabilities."""
        gradient.sub_(self._probabilities, alpha=weight)


def head_loss(
    hidden: Tensor, head: Head, targets: Sequence[tuple[float, Target]]
) -> tuple[Tensor, list[float]]:
    """Σ weight·loss over the targets, each a mean over tokens; and the losses one by one, unweighted.

    hidden: `[tokens, hidden]`. The gradient reaches `hidden`, and the head's weight and bias where these train.
    Matmuls are in autocast's type where it is on, all else in fp32.
    """
    total, losses = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head.softcap, targets
    )
    return total, losses.tolist()


class _HeadLoss(torch.autograd.Function):
    """d loss / d logits = Σ weight · (softmax(logits) − target's probabilities) / tokens, for both kinds of target."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        targets: Sequence[tuple[float, Target]],
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            gradients = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
            head = Head(weight, bias, softcap).cast(dtype)
            losses = _chunks(hidden.detach(), head, targets, gradients)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.mark_non_differentiable(losses)
        weights = torch.tensor([share for share, _ in targets], device=losses.device)
        return torch.dot(weights, losses), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _losses: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if gradient is None else gradient * scale for gradient in ctx.saved_tensors]
        return (*scaled, None, None)


class _Gradients:
    """Gradients of a loss that is summed up chunk by chunk, None where they are not wanted."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] and bias is not None else None

    @property
    def wanted(self) -> bool:
        """Whether any is."""
        return not (self.hidden is None and self.weight is None and self.bias is None)

    def add(self, place: slice, logits: Tensor, hidden: Tensor, head: Head) -> None:
        """A chunk's; logits: the gradient of its logits."""
        cast = logits.to(head.weight.dtype)
        if self.hidden is not None:
            self.hidden[place] = cast @ head.weight
        if self.weight is not None:
            self.weight += cast.T @ hidden.to(cast.dtype)
        if self.bias is not None:
            self.bias += logits.sum(dim=0)


def _chunks(
    hidden: Tensor, head: Head, targets: Sequence[tuple[float, Target]], gradients: _Gradients
) -> Tensor:
    """Mean loss of each target, fp32; fills the gradients."""
    tokens = hidden.shape[0]
    losses = torch.zeros(len(targets), dtype=torch.float64, device=hidden.device)
    for _, target in targets:
        target.prepare(head.weight.dtype)
    for start in range(0, tokens, _CHUNK):
        place = slice(start, start + _CHUNK)
        logits = head.logits(hidden[place])
        log_student = logits.log_softmax(dim=-1)
        losses += torch.stack([target.loss(place, log_student) for _, target in targets])
        if gradients.wanted:
            gradient = log_student.exp_().mul_(sum(share for share, _ in targets) / tokens)
            for share, target in targets:
                target.subtract(gradient, share / tokens)
            if head.softcap is not None:
                gradient *= 1.0 - (logits / head.softcap).square()
            gradients.add(place, gradient, hidden[place], head)
    return (losses / tokens).float()
