"""Weights with the second moments of correlated inputs, for the solvers."""

import torch


def problem(n=12, k=300, tokens=500, seed=0):
    """A weight and second moments of correlated inputs; K exceeds a lazy batch and is not a multiple of it."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(k, k, generator=generator) / k**0.5 + torch.eye(k)
    x = torch.randn(tokens, k, generator=generator) @ mix * torch.rand(k, generator=generator).add(0.1)
    return torch.randn(n, k, generator=generator), x.t() @ x


def damped(hessian, damping=0.01):
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian))
