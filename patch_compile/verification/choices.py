"""Lets a mixture of experts be compared with transformers where its routers choose between experts of equal score.

Rounding to 16 bits moves the scores of experts by about a hundredth of their spread. Where two are nearer than that, the
graph may choose another expert than transformers does in fp32, and all numbers behind it differ. So transformers is given
the graph's choices, and each of them must score as high in transformers as rounding allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Choices = Mapping[str, NDArray[Any]]
"""Indices that one run of a graph has chosen, by the name of the output of TopK; in the order of the graph."""


@dataclass
class Followed:
    """Judges the choices that a model followed.

    lost: how much lower than the best experts the chosen experts score, as a share of the largest score; the worst of all
    tokens and routers. Infinite if an expert is chosen twice or does not exist.
    """

    lost: float = 0.0


@contextmanager
def following(choices: Choices) -> Iterator[Followed]:
    """Let the calls of `torch.topk` within the context give the indices of `choices`, one after the other.

    Raises ValueError if the model does not choose as often as the graph, or from other tensors. Without choices, `topk` is
    not changed.
    """
    from torch.overrides import TorchFunctionMode

    followed, remaining = Followed(), iter(choices.values())

    class Following(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            import torch

            best = func(*args, **(kwargs or {}))
            if func not in (torch.topk, torch.Tensor.topk):
                return best
            chosen = next(remaining, None)
            if chosen is None or chosen.shape != tuple(best.values.shape):
                raise ValueError(
                    f"the graph has not chosen {tuple(best.values.shape)} of {tuple(args[0].shape)}"
                )
            values, lost = _values(args[0], best.values, torch.from_numpy(chosen))
            followed.lost = max(followed.lost, lost)
            return torch.return_types.topk((values, torch.from_numpy(chosen)))

    with Following() if choices else nullcontext():
        yield followed
    if choices and next(remaining, None) is not None:
        raise ValueError("the graph chooses more often than the model")


def _values(scores: Any, best: Any, chosen: Any) -> tuple[Any, float]:
    """Returns the scores [..., k] of the chosen indices, and what they lose against the best, see `Followed`.

    scores: [..., N]; best: the k largest; chosen: indices [..., k].
    """
    count = scores.shape[-1]
    in_order = chosen.sort().values
    if in_order.min() < 0 or in_order.max() >= count or not (in_order.diff() > 0).all():
        return best, math.inf
    values = scores.gather(-1, chosen)
    lost = (best.float().sum(-1) - values.float().sum(-1)).max()
    return values, float(lost / scores[scores.isfinite()].float().abs().max())
