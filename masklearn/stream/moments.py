"""Computes second moments XᵀX of the inputs of a block's linears: the Hessians of their squared output errors."""

from collections.abc import Callable, Mapping

import torch

from masklearn.base.threads import total
from masklearn.stream.logits import watch_calls

# Rows of XᵀX per product: a smaller number skips more of the lower triangle, a larger one multiplies faster.
_BLOCK = 384


def input_moments(
    linears: Mapping[str, torch.nn.Linear], run: Callable[[], object]
) -> dict[str, torch.Tensor]:
    """Returns XᵀX, fp32 `[K, K]`, of each linear by name, over all tokens that `run` sends through it.

    Linears with the same input tensor (q, k and v; gate and up) share one matrix object.
    """
    leaders: dict[str, str] = {}
    moments: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor, _: torch.Tensor) -> None:
        if name not in leaders:  # a block shares the same inputs at every call, so the first call decides
            leaders[name] = next((n for n, seen in inputs.items() if seen is x), name)
            inputs[name] = x
        if leaders[name] == name:
            rows = x.detach().flatten(0, -2).float()
            if name not in moments:
                moments[name] = torch.zeros(rows.shape[1], rows.shape[1], device=rows.device)
            add_upper(moments[name], rows)

    with watch_calls(linears, add):
        run()
    for moment in moments.values():
        mirror(moment)
    return {name: moments[leaders[name]] for name in linears}


def second_moment(rows: torch.Tensor) -> torch.Tensor:
    """Returns XᵀX `[K, K]` of X `[rows, K]`, both fp32, whose bytes do not depend on the number of threads where MKL
    multiplies (`masklearn.base.threads`)."""
    moment = torch.zeros(rows.shape[1], rows.shape[1], device=rows.device)
    add_upper(moment, rows)
    mirror(moment)
    return moment


def squared_input_norms(
    linears: Mapping[str, torch.nn.Linear], run: Callable[[], object]
) -> dict[str, torch.Tensor]:
    """Returns the squared norm of every input feature, fp32 `[K]`, of each linear by name.

    The norms are over all tokens that `run` sends through the linear.
    """
    sums = {
        name: torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
        for name, linear in linears.items()
    }

    def add(name: str, x: torch.Tensor, _: torch.Tensor) -> None:
        sums[name] += x.flatten(0, -2).square().sum(dim=0)

    with watch_calls(linears, add):
        run()
    return {name: one.float() for name, one in sums.items()}


def add_upper(moment: torch.Tensor, rows: torch.Tensor) -> None:
    """Add the upper triangle of XᵀX of X `[tokens, K]` in blocks of rows: 0.6 of the full work for K = 1536."""
    for start in range(0, moment.shape[0], _BLOCK):
        end = min(start + _BLOCK, moment.shape[0])
        moment[start:end, start:].addmm_(rows[:, start:end].t(), rows[:, start:])


def mirror(moment: torch.Tensor) -> None:
    for start in range(0, moment.shape[0], _BLOCK):
        end = min(start + _BLOCK, moment.shape[0])
        moment[end:, start:end] = moment[start:end, end:].t()


def output_energy(weight: torch.Tensor, moment: torch.Tensor) -> float:
    """Returns ‖XWᵀ‖² over all tokens, from W `[N, K]` and XᵀX `[K, K]`."""
    return float(total((weight @ moment).mul_(weight)))
