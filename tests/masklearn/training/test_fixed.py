"""Pruned weights are 0 at every step, and the optimizer gets no gradient of them."""

import torch
from torch import nn

from masklearn.training.student import fix_masks


def masked_linear() -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    linear = nn.Linear(8, 6)
    keep = torch.rand(6, 8) > 0.5
    fix_masks({"a": linear}, {"a": keep})
    return linear, keep


def test_gradients_are_the_masked_ones() -> None:
    linear, keep = masked_linear()
    inputs = torch.randn(4, 8)
    linear(inputs).square().sum().backward()
    plain = linear.weight.detach().clone().requires_grad_()
    nn.functional.linear(inputs, plain, linear.bias.detach()).square().sum().backward()
    gradient = linear.parametrizations.weight.original.grad
    assert plain.grad is not None
    torch.testing.assert_close(gradient, plain.grad * keep)
    assert bool((plain.grad[~keep] != 0).any())


def test_autocast_weights_train_in_fp32() -> None:
    linear, keep = masked_linear()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear.weight.dtype is torch.bfloat16
        linear(torch.randn(4, 8)).float().square().sum().backward()
    gradient = linear.parametrizations.weight.original.grad
    assert gradient.dtype is torch.float32
    assert bool((gradient[~keep] == 0).all()) and bool((gradient[keep] != 0).any())


def test_pruned_weights_stay_zero_while_training() -> None:
    linear, keep = masked_linear()
    original = linear.parametrizations.weight.original
    optimizer = torch.optim.AdamW([original], lr=0.1, weight_decay=0.0, fused=True)
    before = original.detach().clone()
    for _ in range(5):
        assert bool((linear.weight[~keep] == 0).all())
        linear(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert bool((linear.weight[~keep] == 0).all())
    assert bool((original[keep] != before[keep]).all())
    state = optimizer.state[original]
    assert bool((state["exp_avg"][~keep] == 0).all()) and bool((state["exp_avg_sq"][~keep] == 0).all())
