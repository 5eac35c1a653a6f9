"""Computes losses over the vocabulary in chunks of tokens, so that the logits of a whole text are never in memory.

A chunk's gradient is computed together with its loss, so the backward pass needs no logits (as in Liger kernels, arXiv
2410.10989). The logits of SmolLM2 for 2 x 512 tokens take 200 MB in fp32, and plain autograd keeps four such tensors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from masklearn.model.modules import LogitRule
from masklearn.stream.logits import token_kl, token_nll

# Tokens per chunk. 128 is fastest on 2 cores: 25 MB of fp32 logits over a vocabulary of 49k stay in the cache.
CHUNK = 128


class Head(NamedTuple):
    """Output head of a language model.

    weight: `[vocabulary, hidden]`; bias: `[vocabulary]`; rule: turns the results into logits, None if they are the logits.
    """

    weight: Tensor
    bias: Tensor | None = None
    rule: LogitRule | None = None

    @classmethod
    def of(cls, model: Any) -> "Head":
        linear = model.get_output_embeddings()
        return cls(linear.weight, linear.bias, LogitRule.of(model.config))

    def cast(self, dtype: torch.dtype) -> "Head":
        """Returns a detached copy of the head in `dtype`."""
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return Head(self.weight.detach().to(dtype), bias, self.rule)

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns logits, fp32 `[tokens, vocabulary]`; hidden: `[tokens, hidden]`."""
        results = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias).float()
        return results if self.rule is None else self.rule.forward(results)


class TargetDistribution(Protocol):
    """Target distribution over the vocabulary for the student's predictions."""

    def prepare(self, dtype: torch.dtype) -> None:
        """Called once before the first chunk; dtype: type of the head's matmul."""

    def loss(self, place: slice, log_student: Tensor) -> Tensor:
        """Returns the loss summed over a chunk's tokens, a scalar.

        place: the chunk's tokens; log_student: log-probabilities `[chunk, vocabulary]`.
        """

    def subtract(self, gradient: Tensor, weight: float) -> None:
        """Subtract `weight` · the target's probabilities of the latest chunk from `gradient` `[chunk, vocabulary]`."""


class Labels:
    """Target of the text's own next tokens, int64 `[tokens]`. The loss is cross-entropy."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels
        self._chunk = labels[:0, None]

    def prepare(self, dtype: torch.dtype) -> None:
        """Does nothing."""

    def loss(self, place: slice, log_student: Tensor) -> Tensor:
        self._chunk = self._labels[place, None]
        return token_nll(log_student, self._labels[place]).sum(dtype=torch.float64)

    def subtract(self, gradient: Tensor, weight: float) -> None:
        """Subtract `weight` at each token's label: the target's probabilities are one-hot."""
        gradient.scatter_add_(1, self._chunk, gradient.new_full(self._chunk.shape, -weight))


class Teacher:
    """Target of another model's predictions. The loss is KL(teacher ‖ student).

    hidden: inputs of the teacher's head, `[tokens, hidden]`.
    """

    def __init__(self, hidden: Tensor, head: Head) -> None:
        self._hidden, self._head = hidden.detach(), head
        self._probabilities = hidden

    def prepare(self, dtype: torch.dtype) -> None:
        self._head = self._head.cast(dtype)

    def loss(self, place: slice, log_student: Tensor) -> Tensor:
        log_teacher = self._head.logits(self._hidden[place]).log_softmax(dim=-1)
        self._probabilities = log_teacher.exp()
        return token_kl(log_teacher, log_student, self._probabilities).sum(dtype=torch.float64)

    def subtract(self, gradient: Tensor, weight: float) -> None:
        """Subtract `weight` · the teacher's probabilities."""
        gradient.sub_(self._probabilities, alpha=weight)


def head_loss(
    hidden: Tensor, head: Head, targets: Sequence[tuple[float, TargetDistribution]]
) -> tuple[Tensor, list[float]]:
    """Returns Σ weight·loss over the targets, and the unweighted losses. Each loss is a mean over tokens.

    hidden: inputs of the head, `[tokens, hidden]`; targets: pairs of weight and target. Gradients flow to `hidden`, and to
    the head's weight and bias if they train. Matmuls run in autocast's type if it is on, everything else in fp32.
    """
    total, losses = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head.rule, targets
    )
    return total, losses.tolist()


class _HeadLoss(torch.autograd.Function):
    """Weighted sum of the losses with a gradient of its own.

    For both kinds of target, d loss / d logits = Σ weight · (softmax(logits) − target's probabilities) / tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rule: LogitRule | None,
        targets: Sequence[tuple[float, TargetDistribution]],
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            gradients = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
            head = Head(weight, bias, rule).cast(dtype)
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
    """Gradients of a loss that is summed chunk by chunk. None stands for a gradient that is not needed."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] and bias is not None else None

    @property
    def wanted(self) -> bool:
        return not (self.hidden is None and self.weight is None and self.bias is None)

    def add(self, place: slice, logits: Tensor, hidden: Tensor, head: Head) -> None:
        """Add the gradients of a chunk; logits: the gradient `[chunk, vocabulary]` of its logits."""
        cast = logits.to(head.weight.dtype)
        if self.hidden is not None:
            self.hidden[place] = cast @ head.weight
        if self.weight is not None:
            self.weight += cast.T @ hidden.to(cast.dtype)
        if self.bias is not None:
            self.bias += logits.sum(dim=0)


def _chunks(
    hidden: Tensor, head: Head, targets: Sequence[tuple[float, TargetDistribution]], gradients: _Gradients
) -> Tensor:
    """Returns the mean loss of each target, fp32 `[targets]`, and fills `gradients`."""
    tokens = hidden.shape[0]
    losses = torch.zeros(len(targets), dtype=torch.float64, device=hidden.device)
    for _, target in targets:
        target.prepare(head.weight.dtype)
    for start in range(0, tokens, CHUNK):
        place = slice(start, start + CHUNK)
        logits = head.logits(hidden[place])
        log_student = logits.log_softmax(dim=-1)
        losses += torch.stack([target.loss(place, log_student) for _, target in targets])
        if gradients.wanted:
            gradient = log_student.exp_().mul_(sum(share for share, _ in targets) / tokens)
            for share, target in targets:
                target.subtract(gradient, share / tokens)
            if head.rule is not None:
                head.rule.pull_back(gradient, logits)
            gradients.add(place, gradient, hidden[place], head)
    return (losses / tokens).float()
