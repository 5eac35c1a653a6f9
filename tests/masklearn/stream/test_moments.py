import torch

from masklearn.stream.moments import input_moments


class Shared(torch.nn.Module):
    """A block in which q and k share an input and o has another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = (torch.nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(self.q(x) + self.k(x))


def test_moments_are_sums_over_all_tokens_and_shared_inputs_are_counted_once() -> None:
    module = Shared()
    windows = [torch.randn(1, 5, 6) for _ in range(3)]
    inner = torch.cat([module.q(x) + module.k(x) for x in windows]).flatten(0, 1)
    moments = input_moments(
        {name: getattr(module, name) for name in "qko"}, lambda: [module(x) for x in windows]
    )
    tokens = torch.cat(windows).flatten(0, 1)
    torch.testing.assert_close(moments["q"], tokens.t() @ tokens)
    torch.testing.assert_close(moments["o"], inner.t() @ inner)
    assert moments["q"] is moments["k"]
    assert not module.q._forward_hooks


def test_moments_of_wide_inputs_are_whole_and_symmetric() -> None:
    """Inputs are wider than a block of the sum, and no multiple of it."""
    linear = torch.nn.Linear(900, 4)
    windows = [torch.randn(1, 7, 900) for _ in range(3)]
    moment = input_moments({"linear": linear}, lambda: [linear(x) for x in windows])["linear"]
    tokens = torch.cat(windows).flatten(0, 1)
    torch.testing.assert_close(moment, tokens.t() @ tokens, rtol=1e-4, atol=1e-4)
    assert torch.equal(moment, moment.t())
