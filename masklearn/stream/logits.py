"""Logits of a language model's head, in chunks: those of a whole text never exist at once. And what they are judged by."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HEAD_CHUNK", "Softcap", "perplexity_of", "token_kl", "token_losses", "token_nll"]

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

    Yields the chunk's place and its loss, fp64, in nats.
    """
    for start in range(0, hidden.shape[0], HEAD_CHUNK):
        place = slice(start, start + HEAD_CHUNK)
        log_q = head(hidden[place]).float().log_softmax(dim=-1)
        yield place, token_nll(log_q, labels[place]).sum(dtype=torch.float64)


def token_nll(log_q: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label, `[tokens]`, in nats; log_q: log-probabilities `[tokens, vocabulary]`."""
    return -log_q.gather(-1, labels[:, None]).squeeze(-1)


def token_kl(log_p: Tensor, log_q: Tensor, p: Tensor | None = None) -> Tensor:
    """KL(p ‖ q) at each token, `[tokens]`, in nats; log_p, log_q: log-probabilities `[tokens, vocabulary]`.

    p: exp(log_p), where the caller has it. `log_p` is overwritten: a copy of it would cost as much as all else here.
    """
    p = log_p.exp() if p is None else p
    return log_p.sub_(log_q).mul_(p).sum(dim=-1)


def perplexity_of(nll: float, tokens: int) -> float:
    """exp(nll / tokens), infinite where that overflows; nll: negative log-likelihood summed over tokens, in nats."""
    mean = nll / tokens
    return math.exp(mean) if mean < 700 else math.inf
