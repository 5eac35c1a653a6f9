"""Distillation: trains a pruned student to make the dense teacher's predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.base.threads import total
from masklearn.training.head import Head, Labels, TargetDistribution, Teacher, head_loss
from masklearn.training.model import last_hidden

__all__ = ["Distillation"]


class Distillation:
    """Objective of distillation: KL(teacher ‖ student) + `label_weight` · cross-entropy, means over all tokens.

    The cross-entropy is that of the text's own next tokens. An encoder predicts no tokens: its loss is
    ‖student − teacher‖² / ‖teacher‖² of the last hidden states.

    trained: parameters of the student that train; teacher_bf16: True if the teacher's linears are in bf16.
    Raises ValueError for a label weight with an encoder.
    """

    def __init__(
        self,
        teacher: Any,
        trained: Sequence[nn.Parameter],
        *,
        encoder: bool,
        teacher_bf16: bool,
        label_weight: float = 0.0,
    ) -> None:
        if encoder and label_weight:
            raise ValueError("an encoder has no labels")
        self.figure = "error" if encoder else "kl"
        self._label_weight = label_weight
        self._teacher, self._trained = teacher, list(trained)
        self._encoder, self._teacher_bf16 = encoder, teacher_bf16

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns one group of all trained parameters."""
        return [{"params": self._trained}]

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the loss of token ids `[batch, length]`, and the distance from the teacher as a figure."""
        target = self._target(ids)
        hidden = last_hidden(model, ids)
        if self._encoder:
            error = total((hidden.float() - target).square()) / total(target.square())
            return error, {self.figure: float(error.detach())}
        used = ids.shape[1] - bool(self._label_weight)  # the last token of a window has no label
        teacher = Teacher(target[:, :used].flatten(0, 1), Head.of(self._teacher))
        targets: list[tuple[float, TargetDistribution]] = [(1.0, teacher)]
        if self._label_weight:
            targets.append((self._label_weight, Labels(ids[:, 1:].flatten())))
        loss, losses = head_loss(hidden[:, :used].flatten(0, 1), Head.of(model), targets)
        return loss, {self.figure: losses[0]}

    def begin(self, step: int, fraction: float) -> None:
        """Does nothing: the objective is the same at every step."""

    def end(self, step: int) -> None:
        """Does nothing: `FixedMask` keeps pruned weights 0."""

    @torch.no_grad()
    def _target(self, ids: Tensor) -> Tensor:
        self._teacher.to(ids.device)
        if not self._teacher_bf16:
            return last_hidden(self._teacher, ids).float()
        with torch.autocast(ids.device.type, torch.bfloat16):
            return last_hidden(self._teacher, ids).float()
