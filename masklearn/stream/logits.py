"""Hooks linears, and computes logits, losses and divergences in chunks: the logits of a whole text take too much memory."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.model.modules import removed_after


@contextmanager
def watch_calls(
    linears: Mapping[str, nn.Linear], see: Callable[[str, Tensor, Tensor], object]
) -> Iterator[None]:
    """Call `see(name, x, y)` with the input `[..., K]` and output `[..., N]` of every call of a linear."""

    def seen(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        see(name, inputs[0], output)

    with removed_after(linear.register_forward_hook(partial(seen, name)) for name, linear in linears.items()):
        yield


@contextmanager
def watch_gradients(linears: Mapping[str, nn.Linear], see: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call `see(name, g)` with the gradient `[..., N]` of the output of every call of a linear."""

    def seen(name: str, _: nn.Module, __: Any, gradients: tuple[Tensor, ...]) -> None:
        see(name, gradients[0])

    with removed_after(
        linear.register_full_backward_hook(partial(seen, name)) for name, linear in linears.items()
    ):
        yield


HEAD_CHUNK = 256  # tokens per chunk: the logits of 256 tokens over a vocabulary of 128k take 134 MB in fp32


def token_losses(
    head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the place of each chunk of tokens and its summed cross-entropy, fp64, in nats.

    head: returns logits `[tokens, vocabulary]`; hidden: its input `[tokens, hidden]`; labels: token ids `[tokens]`.
    """
    for start in range(0, hidden.shape[0], HEAD_CHUNK):
        place = slice(start, start + HEAD_CHUNK)
        log_q = head(hidden[place]).float().log_softmax(dim=-1)
        yield place, token_nll(log_q, labels[place]).sum(dtype=torch.float64)


def log_probabilities(logits: Tensor) -> Tensor:
    """Returns log-probabilities of fp32 logits `[tokens, vocabulary]`, for figures that need no gradients.

    torch's log_softmax over a vocabulary of 49k has errors of 1e-5 on a CPU (torch 2.13); these have errors of 2e-6.
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(dim=-1, keepdim=True).log_())


def token_nll(log_q: Tensor, labels: Tensor) -> Tensor:
    """Returns the negative log-likelihood `[tokens]` of each label, in nats.

    log_q: log-probabilities `[tokens, vocabulary]`; labels: token ids `[tokens]`.
    """
    return -log_q.gather(-1, labels[:, None]).squeeze(-1)


def token_kl(log_p: Tensor, log_q: Tensor, p: Tensor | None = None) -> Tensor:
    """Returns KL(p ‖ q) `[tokens]` of each token, in nats.

    log_p, log_q: log-probabilities `[tokens, vocabulary]`; p: exp(log_p) if the caller has it, else None. `log_p` is
    overwritten, because a copy of it would cost as much time as the rest of this function.
    """
    p = log_p.exp() if p is None else p
    return log_p.sub_(log_q).mul_(p).sum(dim=-1)


def perplexity_of(nll: float, tokens: int) -> float:
    """Returns exp(nll / tokens), infinity if that overflows; nll: summed negative log-likelihood of the tokens, in nats."""
    mean = nll / tokens
    return math.exp(mean) if mean < 700 else math.inf
