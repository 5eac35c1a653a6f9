"""Computes second moments of the inputs of a block's linears: XᵀX, the Hessians of their squared output errors, and moments
that weight each token by the effect of its errors on the block's output.

The squared output error of a linear weights all tokens alike. In a model their effects differ: heads give most of their
attention to the first token (attention sinks, arXiv 2309.17453), so an error of its value reaches every other token, while
an error of its huge hidden state is relatively small. Weights that are rounded on weighted moments lose less. Tried by hand
on 2026-11-28: SmolLM2-135M with a single kind of linear in int4, none pruned, 16 windows; perplexity of the first 4 windows
of WikiText-2, 23.08 without rounding:

    moments of     v      k      q     gate   up     down   o
    XᵀX            27.13  23.43  23.19 23.48  23.51  24.04  23.33
    weighted       23.34  23.15  23.13 23.32  23.54  23.78  23.27

The trial of q left out the division by the size of z. Pruning to 2:4 by ALPS changes by less than 0.35 either way by
weighted moments, so it keeps XᵀX.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from masklearn.base.threads import in_parallel, total
from masklearn.model.rounded_inputs import round_inputs
from masklearn.stream.blocks import Block
from masklearn.stream.hidden_states import check_space
from masklearn.stream.logits import watch_calls

# Rows of XᵀX per product: a smaller number skips more of the lower triangle, a larger number multiplies faster.
_BLOCK = 384
_ROWS = 256  # rows of a weight of which an energy is computed at a time


class Moment:
    """XᵀX, fp32 `[K, K]`, of the inputs X of a linear.

    matrix: XᵀX; rows: number of rows of X; check: XᵀX of other tokens, None if there are none.
    """

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.rows = 0
        self.matrix = torch.zeros(inputs, inputs, device=device)
        self.check: torch.Tensor | None = None

    def add(self, rows: torch.Tensor, *, checks: bool) -> None:
        """Add the upper triangle of the rows' XᵀX, to `check` if `checks`, until `finish` completes both."""
        if not checks:
            self.rows += len(rows)
        elif self.check is None:
            self.check = torch.zeros_like(self.matrix)
        add_upper(self.check if checks and self.check is not None else self.matrix, rows)

    def finish(self) -> None:
        mirror(self.matrix)
        if self.check is not None:
            mirror(self.check)


def input_moments(
    linears: Mapping[str, torch.nn.Linear], run: Callable[[], object], checks: Callable[[], bool] = bool
) -> dict[str, Moment]:
    """Returns the moments of each linear by name, over all tokens that `run` sends through it.

    Linears with the same input tensor (q, k and v; gate and up) share an object. checks: called at every call of a linear,
    returns True if these tokens are for `Moment.check`.
    """
    leaders: dict[str, str] = {}
    moments: dict[str, Moment] = {}
    inputs: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor, _: torch.Tensor) -> None:
        if name not in leaders:  # a block shares the same inputs at every call, so the first call decides
            leaders[name] = next((n for n, seen in inputs.items() if seen is x), name)
            inputs[name] = x
            if leaders[name] == name:
                moments[name] = Moment(x.shape[-1], x.device)
        if leaders[name] == name:
            moments[name].add(x.detach().flatten(0, -2).float(), checks=checks())

    with watch_calls(linears, add):
        run()
    for moment in moments.values():
        moment.finish()
    return {name: moments[leaders[name]] for name in linears}


@contextmanager
def watch_rounding(linears: Mapping[str, torch.nn.Linear]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the squared errors of rounding the inputs of linears to int8, fp32 `[K]` by name, which the calls in the context
    sum up."""
    errors: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor, _: torch.Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()
        squares = (round_inputs(rows) - rows).square_().sum(dim=0)
        errors[name] = errors[name] + squares if name in errors else squares

    with watch_calls(linears, add):
        yield errors


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
    return {name: norms.float() for name, norms in sums.items()}


def add_upper(moment: torch.Tensor, rows: torch.Tensor) -> None:
    """Add the upper triangle of XᵀX of X `[tokens, K]` in blocks of rows: 0.6 of the full work for K = 1536."""

    def part(start: int) -> None:
        moment[start : start + _BLOCK, start:].addmm_(rows[:, start : start + _BLOCK].t(), rows[:, start:])

    starts = range(0, moment.shape[0], _BLOCK)
    if moment.device.type == "cpu":
        in_parallel(part, starts)
        return
    for start in starts:
        part(start)


def mirror(moment: torch.Tensor) -> None:
    for start in range(0, moment.shape[0], _BLOCK):
        end = min(start + _BLOCK, moment.shape[0])
        moment[end:, start:end] = moment[start:end, end:].t()


def output_energy(weight: torch.Tensor, moment: torch.Tensor) -> float:
    """Returns ‖XWᵀ‖² over all tokens, from W `[N, K]` and XᵀX `[K, K]`."""

    def part(start: int) -> float:
        rows = weight[start : start + _ROWS]
        return float(total((rows @ moment).mul_(rows)))

    starts = range(0, len(weight), _ROWS)
    return math.fsum(in_parallel(part, starts) if weight.device.type == "cpu" else map(part, starts))


# Share of XᵀX, because sinks are few and leave the other directions to the damping. With a share of 0, 23.84 for down and
# 23.24 for k.
_UNWEIGHTED = 0.3
# Windows whose tokens are weighted, spread over all. XᵀX is of all windows, and so counts more where there are more of them.
# SmolLM2-135M by 64 windows, perplexity on the text of quality.md (2026-11-30): dense int4 24.97, and 25.11 if all windows
# are weighted; all tiles 6:8 in w8a8 25.84 and 25.79, and 26.12 if the share of XᵀX stays .3.
_WEIGHTED_WINDOWS = 16

_LARGE = 256 << 20  # bytes: a K of more than 8192

_Call = tuple[str, torch.Tensor, torch.Tensor]  # of a linear: its name, x and y


def weighted_moments(
    linears: Mapping[str, torch.nn.Linear],
    block: Block,
    moments: Mapping[str, Moment],
    groups: Sequence[Sequence[str]],
    store: Path | None = None,
) -> dict[str, Callable[[], torch.Tensor]]:
    """Returns functions that return XᵀDX, fp32 `[K, K]`, of groups of linears that share inputs X, by the name of the first.

    D is diagonal and holds a weight per token, 1 on average. The share `_UNWEIGHTED` of it is the same for all tokens. The
    rest is in proportion to ‖∂(r·z)/∂y‖², where y are the outputs of the group's linears at the token, z is the block's
    output, and r holds for each number of z a random sign over the root mean square of z at its token. The expectation over
    r is the squared change of z, in units of z, by a small error of y (Gauss-Newton). That part is summed over
    `_WEIGHTED_WINDOWS` windows at most.

    moments: of each linear; store: folder for large matrices, which stay on the disk until the function is called,
    because linears are pruned before they are rounded, and that takes much memory too; None for the system's temporary
    folder. A group is left out if z does not depend on it. Raises MaskLearnError if there is no room on the disk.
    """
    leaders = {name: names[0] for names in groups for name in names}
    sums = {names[0]: _Sum(moments[names[0]].matrix) for names in groups}
    picked = range(0, len(block.hidden), math.ceil(len(block.hidden) / _WEIGHTED_WINDOWS))
    seen: list[_Call] = []
    with watch_calls({name: linears[name] for name in leaders}, lambda *call: seen.append(call)):
        for i in picked:
            seen.clear()
            gradients = _gradients(block, block.hidden[i], seen, torch.Generator().manual_seed(i))
            inputs: dict[tuple[str, int], tuple[torch.Tensor, list[torch.Tensor]]] = {}
            for (name, x, _), gradient in zip(seen, gradients, strict=True):
                inputs.setdefault((leaders[name], id(x)), (x, []))[1].append(gradient)
            for (leader, _), (x, of_x) in inputs.items():
                weights = torch.stack(
                    [gradient.flatten(0, -2).float().square().sum(dim=1) for gradient in of_x]
                )
                sums[leader].add(x.detach().flatten(0, -2).float(), weights.sum(dim=0))
    return {
        leader: _stored(moment.result(), store)
        for leader, moment in sums.items()
        if 0.0 < moment.weight < math.inf
    }


def _gradients(
    block: Block, hidden: torch.Tensor, seen: Sequence[_Call], random: torch.Generator
) -> Sequence[torch.Tensor]:
    """Run a window. Returns the gradient of r·z with respect to each y that is `seen` meanwhile."""
    with torch.enable_grad():
        z = block.run(hidden.detach().requires_grad_())
        signs = torch.randint(0, 2, z.shape, generator=random).mul_(2).sub_(1).to(z)
        size = z.detach().float().square().mean(dim=-1, keepdim=True).sqrt()
        r = (signs / size.clamp_min(torch.finfo(torch.float32).tiny)).to(z.dtype)
        return torch.autograd.grad(z, [y for _, _, y in seen], r, materialize_grads=True)


def _stored(moment: torch.Tensor, store: Path | None) -> Callable[[], torch.Tensor]:
    if moment.device.type != "cpu" or moment.nbytes < _LARGE:
        return lambda: moment
    shape = moment.shape
    check_space(moment.nbytes, store, "moments of a linear's inputs", "Make room.")
    file = tempfile.TemporaryFile(dir=store, prefix="moment-")  # noqa: SIM115 (`read` closes it)
    moment.numpy().tofile(file)

    def read() -> torch.Tensor:
        with file:
            file.seek(0)
            return torch.from_numpy(np.fromfile(file, np.float32)).view(shape)

    return read


class _Sum:
    """Sum of the squares of weighted rows. plain: the same sum without weights; weight: sum of the weights."""

    def __init__(self, plain: torch.Tensor) -> None:
        self.weight = 0.0
        self._plain, self._moment, self._rows = plain, torch.zeros_like(plain), 0

    def add(self, rows: torch.Tensor, weights: torch.Tensor) -> None:
        """Add rows `[tokens, K]` with their weights `[tokens]`."""
        add_upper(self._moment, rows * weights.sqrt()[:, None])
        self.weight += float(total(weights))
        self._rows += len(rows)

    def result(self) -> torch.Tensor:
        """Returns the sum for an average weight of 1, mixed with `plain`."""
        mirror(self._moment)
        scale = (1.0 - _UNWEIGHTED) * self._rows / self.weight
        return self._moment.mul_(scale).add_(self._plain, alpha=_UNWEIGHTED)
