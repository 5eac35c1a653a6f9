"""Draws the hybrid mask of one weight by Gumbel-softmax, differentiably with respect to its logits.

Masks and weights are planes `[N, 4, K/4]` here, with the position in the group second. Sums over a group then vectorise,
which makes a step on a CPU five times as fast as with the position last. The functions are autograd functions because these
keep 1.5 fp32 values per weight for the backward pass (none with fixed patterns), while plain operations keep five.
"""

from typing import Any

import torch
from torch import Tensor

from masklearn.base.threads import one_thread
from masklearn.masks.nm_codes import PATTERNS
from masklearn.masks.tiles import GROUP

__all__ = ["dense_share", "gumbel", "spread_tiles", "weight_of_codes", "weight_of_logits"]

_PATTERNS = torch.from_numpy(PATTERNS.copy())  # [6, 4] bool


def dense_share(logits: Tensor, scale: float, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw M_tile, where 1 is dense: the second component of `gumbel_softmax([0, logits]·κ, τ)` (PATCH, arXiv 2509.23410).

    The softmax over two values is the sigmoid of their difference, and the difference of two Gumbel draws is a logistic
    draw. logits: `[grid]`; scale: κ; temperature: τ.
    """
    noise = _open_uniform(logits.shape, logits.device, generator).logit_()
    return torch.sigmoid((logits * scale + noise) / temperature)


def gumbel(shape: torch.Size, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw from Gumbel(0, 1), fp32."""
    return _open_uniform(shape, device, generator).log_().neg_().log_().neg_()


def spread_tiles(grid: Tensor, shape: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """Expand a value per tile to a value per group: `[grid]` to `[N, K/4]`."""
    tall, wide = (min(size, whole) for size, whole in zip(tile, shape, strict=True))  # a tile may be larger
    rows = grid.repeat_interleave(tall, dim=0)[: shape[0]]
    return rows.repeat_interleave(wide // GROUP, dim=1)[:, : shape[1] // GROUP]


def weight_of_logits(
    weight: Tensor, dense: Tensor, logits: Tensor, noise: Tensor, scale: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns `W ⊙ M` in the dtype of W, and `Σ (W ⊙ M)²`, for M_2:4 drawn from pattern logits.

    As in PATCH, M = M_tile + (1 − M_tile) ⊙ M_2:4 and M_2:4 = softmax((κ·logits + noise)/τ) @ patterns.
    weight: `[N, K]`, frozen; dense: M_tile expanded to groups, `[N, K/4]`; logits, noise: `[N, 6, K/4]` fp32, the noise is
    overwritten; scale: κ; temperature: τ. Gradients flow to `dense` and `logits`.
    """
    out: tuple[Tensor, Tensor] = _FromLogits.apply(  # type: ignore[no-untyped-call]
        weight, dense, logits, noise, scale, temperature
    )
    return out


def weight_of_codes(weight: Tensor, dense: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the results of `weight_of_logits` for a fixed M_2:4; codes: uint8 `[N, K/4]`. Gradients flow to `dense`."""
    out: tuple[Tensor, Tensor] = _FromCodes.apply(weight, dense, codes)  # type: ignore[no-untyped-call]
    return out


class _FromLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        dense: Tensor,
        logits: Tensor,
        noise: Tensor,
        scale: float,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        shares = noise.add_(logits, alpha=scale).div_(temperature).softmax(dim=1)
        ctx.save_for_backward(weight, dense, shares)
        ctx.slope = scale / temperature
        return _masked(weight, dense, _from_shares(shares))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, dense, shares = ctx.saved_tensors
        pattern = _from_shares(shares)
        by_mask = _by_mask(weight, dense, pattern, gradients)
        by_dense = (by_mask * (1.0 - pattern)).sum(dim=1)
        by_pattern = by_mask.mul_(1.0 - dense.unsqueeze(1))
        # The gradient of softmax is y ⊙ (g − Σ y·g), and Σ y·g over the six patterns is Σ m·g over the four positions.
        shift = pattern.mul_(by_pattern).sum(dim=1, keepdim=True)
        by_shares = _product(_PATTERNS, by_pattern).sub_(shift)
        return None, by_dense, by_shares.mul_(shares).mul_(ctx.slope), None, None, None


class _FromCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, dense: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, dense, codes)
        return _masked(weight, dense, _from_codes(codes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, dense, codes = ctx.saved_tensors
        pattern = _from_codes(codes)
        by_mask = _by_mask(weight, dense, pattern, gradients)
        return None, by_mask.mul_(1.0 - pattern).sum(dim=1), None


def _masked(weight: Tensor, dense: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
    masked = _mask(dense, pattern).mul_(_planes(weight))
    with one_thread():
        energy = masked.view(-1).dot(masked.view(-1))
    return masked.transpose(1, 2).reshape(weight.shape).to(weight.dtype), energy


def _by_mask(weight: Tensor, dense: Tensor, pattern: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
    """Returns the gradient of the loss with respect to M; gradients: those of `W ⊙ M` and of `Σ (W ⊙ M)²`."""
    by_masked, by_energy = gradients
    planes = _planes(weight)
    by_mask = _mask(dense, pattern).mul_(planes).mul_(2.0 * by_energy)
    return by_mask.add_(_planes(by_masked)).mul_(planes)


def _mask(dense: Tensor, pattern: Tensor) -> Tensor:
    """Returns M = M_tile + (1 − M_tile) ⊙ M_2:4 as a new tensor `[N, 4, K/4]`."""
    dense = dense.unsqueeze(1)
    return torch.addcmul(dense, pattern, 1.0 - dense)


def _planes(weight: Tensor) -> Tensor:
    """Rearrange `[N, K]` to planes, fp32 `[N, 4, K/4]`."""
    return weight.float().reshape(weight.shape[0], -1, GROUP).transpose(1, 2).contiguous()


def _from_shares(shares: Tensor) -> Tensor:
    """Returns M_2:4 `[N, 4, K/4]` from the shares of the six patterns, `[N, 6, K/4]`."""
    return _product(_PATTERNS.T, shares)


def _product(patterns: Tensor, planes: Tensor) -> Tensor:
    """Multiply in fp32 also under autocast, so that the four values of a group's mask sum to two."""
    with torch.autocast(planes.device.type, enabled=False):
        return patterns.to(planes) @ planes


def _from_codes(codes: Tensor) -> Tensor:
    """Returns M_2:4, fp32 `[N, 4, K/4]`, from codes `[N, K/4]`."""
    table = _PATTERNS.to(codes.device, torch.float32)
    return table[codes.int()].transpose(1, 2).contiguous()


def _open_uniform(shape: torch.Size, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw uniformly from the open interval (0, 1), fp32, so that logarithms are finite."""
    return torch.rand(shape, generator=generator, device=device).clamp_(2.0**-25, 1.0 - 2.0**-24)
