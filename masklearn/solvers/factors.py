"""Cholesky factors and inverses of Hessians, whose bytes on a CPU do not depend on the number of threads.

LAPACK divides a factorisation among its threads, and each division rounds differently: one more thread changed masks. Here
blocks of the diagonal are factored by one thread, and everything else is products of matrices and triangular solves, which
MKL computes alike with any number of threads (see `masklearn.base.threads`). With one thread this is also faster: 2.2 times
for K = 1536 and K = 4096. On a GPU torch's own functions are called.
"""

import torch

from masklearn.base.threads import one_thread

__all__ = ["cholesky", "inverse_of_factor", "upper_factor_of_inverse"]

_BLOCK = 128  # columns of the diagonal blocks
_WIDE = 512  # columns that one product updates; a smaller number skips more of the upper triangle


def cholesky(matrix: torch.Tensor) -> torch.Tensor | None:
    """Returns the lower triangular L `[K, K]` with LLᵀ = `matrix`, or None if that is not positive definite.

    matrix: symmetric, fp32 `[K, K]`; its upper triangle is not read.
    """
    if matrix.device.type != "cpu":
        lower, failed = torch.linalg.cholesky_ex(matrix)
        return None if int(failed) else lower
    lower, size = matrix.tril(), len(matrix)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        with one_thread():
            corner, failed = torch.linalg.cholesky_ex(lower[start:end, start:end])
        if int(failed):
            return None
        lower[start:end, start:end] = corner
        if end == size:
            break
        below = torch.linalg.solve_triangular(corner.T, lower[end:, start:end], upper=True, left=False)
        lower[end:, start:end] = below
        for left in range(end, size, _WIDE):
            right = min(left + _WIDE, size)
            lower[left:, left:right].addmm_(below[left - end :], below[left - end : right - end].T, alpha=-1)
    return lower.tril_()


def inverse_of_factor(lower: torch.Tensor) -> torch.Tensor:
    """Returns (LLᵀ)⁻¹ `[K, K]`. `lower` is overwritten with L⁻¹."""
    if lower.device.type != "cpu":
        return torch.cholesky_inverse(lower)
    inverse = torch.empty_like(lower)
    _invert(lower)
    for start in range(0, len(lower), _WIDE):
        end = min(start + _WIDE, len(lower))
        inverse[start:end, :end] = lower[start:, start:end].T @ lower[start:, :end]
        inverse[:start, start:end] = inverse[start:end, :start].T
    return inverse


def upper_factor_of_inverse(matrix: torch.Tensor) -> torch.Tensor | None:
    """Returns the upper triangular U `[K, K]` with `matrix`⁻¹ = UᵀU, or None if the matrix is not positive definite.

    With rows and columns in reverse order, `matrix` = LLᵀ gives U = L⁻¹ in reverse order. The inverse is therefore neither
    formed nor factored.
    """
    lower = cholesky(matrix.flip(0, 1))
    if lower is None:
        return None
    if lower.device.type == "cpu":
        _invert(lower)
    else:
        lower = torch.linalg.solve_triangular(lower, torch.eye(len(lower), device=lower.device), upper=False)
    return lower.flip(0, 1) if bool(torch.isfinite(lower).all()) else None


def _invert(lower: torch.Tensor) -> None:
    """Overwrite L with L⁻¹, block row by block row."""
    for start in range(0, len(lower), _BLOCK):
        end = min(start + _BLOCK, len(lower))
        with one_thread():
            unit = torch.eye(end - start)
            corner = torch.linalg.solve_triangular(lower[start:end, start:end], unit, upper=False)
        lower[start:end, :start] = -(corner @ lower[start:end, :start]) @ lower[:start, :start]
        lower[start:end, start:end] = corner
