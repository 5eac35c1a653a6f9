"""Logits of a language model's head, in chunks: those of a whole text never exist at once."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HEAD_CHUNK", "Softcap", "token_losses"]

HEAD_CHUNK = 256  # tokens whose logits exist at once: 256 x 128k vocabulary in fp32 is 134 MB


class Softcap(nn.Module):
    """cap · tanh(logits / cap), which Gemma 2 does to its logits."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    @classmethod
    def of(cls, config: Any) -> "Softcap | None":
        """The cap of a model's config, None where it has none."""
        cap = getattr(config.get_text_config(), "final_logit_softcapping", None)
        return None if cap is None else cls(float(cap))

    def forward(self, logits: Tensor) -> Tensor:
        """Any shape."""
        return torch.tanh(logits / self.cap) * self.cap


def token_losses(
    head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Summed cross-entropy of `labels` `[tokens]` given `head(hidden)`, hidden: `[tokens, hidden]`, by chunk.

    Yields the chunk's place and its loss, fp32, in nats.
    """
    for start in range(0, hidden.shape[0], HEAD_CHUNK):
        place = slice(start, start + HEAD_CHUNK)
        logits = head(hidden[place]).float()
        yield place, nn.functional.cross_entropy(logits, labels[place], reduction="sum")
