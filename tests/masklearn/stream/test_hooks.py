import pytest
import torch

from masklearn.stream.logits import watch_calls, watch_gradients


def test_calls_are_seen_by_name_and_only_while_it_is_open() -> None:
    linears = {"a": torch.nn.Linear(4, 3), "b": torch.nn.Linear(3, 2)}
    x, seen = torch.randn(5, 4), []
    with watch_calls(linears, lambda name, *call: seen.append((name, *call)) or 0):
        y = linears["b"](linears["a"](x))
    linears["a"](x)
    assert [name for name, _, _ in seen] == ["a", "b"]
    assert seen[0][1] is x and seen[0][2] is seen[1][1] and seen[1][2] is y


def test_gradients_are_those_at_the_outputs() -> None:
    linear, seen = torch.nn.Linear(4, 3), {}
    with watch_gradients({"a": linear}, seen.__setitem__):
        (linear(torch.randn(5, 4, requires_grad=True)) * torch.arange(3.0)).sum().backward()
    assert torch.equal(seen["a"], torch.arange(3.0).expand(5, 3))


@pytest.mark.parametrize("watch", [watch_calls, watch_gradients])
def test_no_hook_is_left_after_an_error(watch) -> None:
    linear = torch.nn.Linear(4, 3)
    with pytest.raises(RuntimeError, match="broken"), watch({"a": linear}, lambda *_: 0.0):
        raise RuntimeError("broken")
    assert not linear._forward_hooks and not linear._backward_hooks
