"""Turns the results of an output head into logits, for the decoders that scale or cap them."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LogitRule"]


class LogitRule(nn.Module):
    """Scales logits, as Cohere and Granite do, then caps them softly, as Gemma 2 does: cap · tanh(logits / cap).

    cap: None for none.
    """

    def __init__(self, scale: float, cap: float | None) -> None:
        super().__init__()
        self.scale, self.cap = scale, cap

    @classmethod
    def of(cls, config: Any) -> "LogitRule | None":
        """Returns the rule of a model's config, or None if the head's results are the logits."""
        text = config.get_text_config()
        cap = getattr(text, "final_logit_softcapping", None)
        scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
        return (
            None if cap is None and scale == 1.0 else cls(float(scale), None if cap is None else float(cap))
        )

    def forward(self, results: Tensor) -> Tensor:
        """Returns the logits of a head's results, which may have any shape."""
        scaled = results if self.scale == 1.0 else results * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def pull_back(self, gradient: Tensor, logits: Tensor) -> None:
        """Turn the gradient of these logits, in place, into that of the head's results."""
        if self.cap is not None:
            gradient *= 1.0 - (logits / self.cap).square()
        if self.scale != 1.0:
            gradient *= self.scale
