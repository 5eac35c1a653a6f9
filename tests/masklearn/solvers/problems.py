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


def output_error(weight, values, hessian):
    """Squared error of the outputs with these values for the weight, on the damped second moments."""
    change = (weight - values).double()
    return float((change @ damped(hessian.double()) * change).sum())


def eliminate(weight, hessian, prunes):
    """Optimal brain surgeon with an explicit inverse in fp64; `prunes(w, j, inverse)` selects rows that lose column j."""
    w, inverse = weight.double().clone(), torch.linalg.inv(damped(hessian.double()))
    loss = torch.zeros_like(w)
    for j in range(w.shape[1]):
        pruned = prunes(w, j, inverse)
        error = w[:, j] * pruned / inverse[j, j]
        loss[:, j] = (w[:, j] * pruned).square() / inverse[j, j]
        w[:, j:] -= error[:, None] * inverse[j, j:]
        w[:, j] *= ~pruned
        inverse = inverse - inverse[:, j, None] * inverse[None, j] / inverse[j, j]
        inverse[j, j] = 1.0  # eliminated
    return w, loss
