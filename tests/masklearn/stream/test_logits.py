import math

import pytest
import torch

from masklearn.stream.logits import (
    log_probabilities,
    perplexity_of,
    token_kl,
    token_losses,
    token_nll,
    watch_calls,
    watch_gradients,
)


def test_calls_are_recorded_only_while_open() -> None:
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


TOKENS, WORDS = 300, 1000  # more tokens than a chunk of the head


def random_logits(seed: int, words: int = WORDS) -> torch.Tensor:
    return 4.0 * torch.randn(TOKENS, words, generator=torch.Generator().manual_seed(seed))


def test_log_probabilities_are_exact_over_a_large_vocabulary() -> None:
    logits = random_logits(3, 49_152)
    before = logits.clone()
    torch.testing.assert_close(
        log_probabilities(logits).double(), logits.double().log_softmax(-1), rtol=0.0, atol=5e-6
    )
    assert torch.equal(logits, before)


def test_kl_is_that_of_exact_arithmetic() -> None:
    log_p, log_q = log_probabilities(random_logits(0)), log_probabilities(random_logits(1))
    p, q = log_p.double(), log_q.double()
    exact = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(token_kl(log_p.clone(), log_q).double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(token_kl(log_p, log_q, log_p.exp()).double(), exact, rtol=1e-5, atol=1e-6)


def test_chunked_losses_are_label_likelihoods() -> None:
    log_q, labels = random_logits(2).log_softmax(-1), torch.arange(TOKENS)
    chunks = list(token_losses(lambda hidden: 2.0 * hidden, log_q / 2.0, labels))
    assert [place.start for place, _ in chunks] == [0, 256]
    expected = torch.nn.functional.nll_loss(log_q.double(), labels, reduction="sum")
    assert float(sum(loss for _, loss in chunks)) == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(token_nll(log_q, labels), -log_q[torch.arange(TOKENS), labels])


def test_perplexity_is_infinite_where_it_overflows() -> None:
    assert perplexity_of(10.0 * math.log(7.0), 10) == pytest.approx(7.0)
    assert perplexity_of(1e6, 10) == math.inf
