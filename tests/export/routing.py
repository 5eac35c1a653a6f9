"""Compares the graph of a mixture of experts with transformers, where both run the experts that the graph chooses.

Rounding to 16 bits changes scores by about a hundredth of their spread. Where two scores are nearer than that, the graph
chooses another expert than transformers in fp32, and everything behind it differs. So transformers is given the graph's
choices, and each of these must be as good in its own scores as rounding allows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.overrides import TorchFunctionMode

__all__ = ["FollowedChoices", "show_choices"]


def show_choices(model: ir.Model) -> int:
    """Make the indices of every TopK outputs of the graph, in the order of the layers. Returns their number."""
    chosen = [node.outputs[1] for node in model.graph if node.op_type == "TopK"]
    model.graph.outputs.extend(chosen)
    return len(chosen)


class FollowedChoices(TorchFunctionMode):
    """Gives each `topk` of a model the indices that a graph has chosen there.

    worst: how much less than the best the choices have been worth, as a share of the largest score.
    """

    def __init__(self, choices: list[np.ndarray]) -> None:
        """choices: indices [tokens, ..., k] of each `topk`, in order."""
        super().__init__()
        self._choices: Iterator[np.ndarray] = iter(choices)
        self.worst = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.topk, torch.Tensor.topk):
            return func(*args, **(kwargs or {}))
        scores = args[0]
        best = func(*args, **(kwargs or {})).values
        chosen = torch.from_numpy(next(self._choices))
        assert chosen.shape == best.shape and (chosen.sort().values.diff() > 0).all()  # no expert twice
        values = scores.gather(-1, chosen)
        lost = best.sum(-1) - values.sum(-1)
        self.worst = max(self.worst, float(lost.max() / scores[scores.isfinite()].abs().max()))
        return torch.return_types.topk((values, chosen))
