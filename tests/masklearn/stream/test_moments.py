from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from masklearn.stream.moments import input_moments, weighted_moments
from tests.masklearn.threads import with_one_and_two_threads
from tests.refusals import refused


class Shared(torch.nn.Module):
    """A block in which q and k share an input and o has another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = (torch.nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(self.q(x) + self.k(x))


def test_shared_inputs_count_once_in_moments() -> None:
    module = Shared()
    windows = [torch.randn(1, 5, 6) for _ in range(3)]
    inner = torch.cat([module.q(x) + module.k(x) for x in windows]).flatten(0, 1)
    moments = input_moments(
        {name: getattr(module, name) for name in "qko"}, lambda: [module(x) for x in windows]
    )
    tokens = torch.cat(windows).flatten(0, 1)
    torch.testing.assert_close(moments["q"].matrix, tokens.t() @ tokens)
    torch.testing.assert_close(moments["o"].matrix, inner.t() @ inner)
    assert moments["q"] is moments["k"]
    assert not module.q._forward_hooks


def test_moments_of_wide_inputs_are_whole_and_symmetric() -> None:
    """Inputs are wider than a block of the sum, and not a multiple of it."""
    linear = torch.nn.Linear(900, 4)
    windows = [torch.randn(1, 7, 900) for _ in range(3)]
    moment = input_moments({"linear": linear}, lambda: [linear(x) for x in windows])["linear"].matrix
    tokens = torch.cat(windows).flatten(0, 1)
    torch.testing.assert_close(moment, tokens.t() @ tokens, rtol=1e-4, atol=1e-4)
    assert torch.equal(moment, moment.t())


TOKENS, WIDE = 12, 512  # outputs of a token, over which one draw of signs averages


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


class Windows:
    """Stands for a block: holds the inputs of all windows and the function that runs one."""

    def __init__(self, hidden: Sequence[torch.Tensor], run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.hidden, self.run = hidden, run


def moments_of(
    linears: dict[str, nn.Linear], groups: list[list[str]], block: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weighted and plain moments of linears."""
    with torch.no_grad():
        plain = input_moments(linears, lambda: [block.run(x) for x in block.hidden])
    weighted = weighted_moments(linears, block, plain, groups)
    matrices = {name: moment.matrix for name, moment in plain.items()}
    return {name: moment() for name, moment in weighted.items()}, matrices


def mixed(weights: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """The documented moment of tokens that are unit vectors."""
    return torch.diag(0.7 * weights / weights.mean()) + 0.3 * plain


def test_tokens_count_by_received_attention_and_magnitude() -> None:
    """Most attention goes to the first token, and the last token's output is huge."""
    v, sizes = nn.Linear(TOKENS, WIDE, bias=False), torch.ones(TOKENS, 1)
    attention = torch.eye(TOKENS) * 0.3
    attention[:, 0] = 0.7
    sizes[-1] = 100.0
    x = torch.eye(TOKENS)[None]
    block = Windows([x], lambda x: attention @ v(x) + sizes)
    weighted, plain = moments_of({"v": v}, [["v"]], block)
    size = block.run(x)[0].square().mean(dim=1).sqrt()
    expected = (attention / size[:, None]).square().sum(dim=0).detach()
    assert expected[0] > 4 * expected[1] > 1000 * expected[-1]
    torch.testing.assert_close(weighted["v"], mixed(expected, plain["v"]), rtol=0.2, atol=1e-6)


def test_linears_of_one_input_share_moments() -> None:
    q, k, gain = nn.Linear(TOKENS, WIDE), nn.Linear(TOKENS, WIDE), torch.rand(TOKENS, 1) * 10
    block = Windows([torch.eye(TOKENS)[None]] * 2, lambda x: (q(x) * gain + k(x)) / (gain**2 + 1).sqrt())
    weighted, plain = moments_of({"q": q, "k": k}, [["q", "k"]], block)
    assert list(weighted) == ["q"]
    size = block.run(block.hidden[0])[0].square().mean(dim=1)
    torch.testing.assert_close(weighted["q"], mixed(1 / size, plain["q"] / 2) * 2, rtol=0.1, atol=1e-6)


def test_experts_get_some_tokens_in_some_windows() -> None:
    """The second expert is called for other tokens each time, twice in one window and never in another."""
    experts = {name: nn.Linear(TOKENS, WIDE, bias=False) for name in "ab"}
    parts = iter([[range(5)], [], [range(5, 8), range(8, 12)]] * 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        z = experts["a"](x)
        for part in next(parts):
            z = z.index_add(1, torch.tensor(part), 3 * experts["b"](x[:, list(part)]))
        return z / z.detach().square().mean(dim=-1, keepdim=True).sqrt()

    block = Windows([torch.eye(TOKENS)[None]] * 3, run)
    weighted, plain = moments_of(experts, [["a"], ["b"]], block)
    assert torch.equal(plain["b"], torch.eye(TOKENS))
    assert bool((weighted["b"].diagonal() > 0.5).all())
    torch.testing.assert_close(weighted["b"].trace(), torch.tensor(float(TOKENS)))
    assert bool((weighted["a"].diagonal() > 0.5).all())


def test_some_of_many_windows_are_weighted() -> None:
    """They are spread over all windows; the part without weights is of all."""
    linear, ran = nn.Linear(TOKENS, WIDE), list[torch.Tensor]()

    def run(x: torch.Tensor) -> torch.Tensor:
        ran.append(x)
        return linear(x)

    windows = [torch.eye(TOKENS)[None] * (1 + i) for i in range(40)]
    weighted, plain = moments_of({"l": linear}, [["l"]], Windows(windows, run))
    assert [float(x.detach().max()) - 1 for x in ran[len(windows) :]] == list(range(0, 40, 3))
    rows = torch.tensor([float(x.detach().max()) ** 2 for x in ran[len(windows) :]])
    size = torch.stack([linear(windows[i])[0].square().mean(dim=1).detach() for i in range(0, 40, 3)])
    weights = size.reciprocal() / size.reciprocal().mean()
    expected = (weights * rows[:, None]).sum(dim=0)
    torch.testing.assert_close(
        weighted["l"], torch.diag(0.7 * expected) + 0.3 * plain["l"], rtol=0.1, atol=1e-3
    )


def test_groups_without_dependents_are_left_out() -> None:
    used, unused = nn.Linear(TOKENS, WIDE), nn.Linear(TOKENS, WIDE)
    block = Windows([torch.eye(TOKENS)[None]], lambda x: used(x) + 0 * unused(x))
    weighted, _ = moments_of({"used": used, "unused": unused}, [["used"], ["unused"]], block)
    assert list(weighted) == ["used"]


def test_thread_count_does_not_change_bytes() -> None:
    wide, narrow = nn.Linear(256, 768), nn.Linear(768, 256)
    block = Windows(
        [torch.randn(1, 512, 256) for _ in range(2)], lambda x: x + narrow(nn.functional.silu(wide(x)))
    )
    first, second = with_one_and_two_threads(
        lambda: moments_of({"a": wide, "b": narrow}, [["a"], ["b"]], block)[0]
    )
    for name in "ab":
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], first[name].T)


def test_a_large_moment_waits_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has no name. Without room for it the error says so."""
    linear, x = nn.Linear(TOKENS, WIDE), torch.randn(1, TOKENS, TOKENS)
    block: Any = Windows([x], linear)
    plain = input_moments({"l": linear}, lambda: linear(x))
    expected = weighted_moments({"l": linear}, block, plain, [["l"]])["l"]()
    monkeypatch.setattr("masklearn.stream.moments._LARGE", 1)
    store = tmp_path / "store"
    kept = weighted_moments({"l": linear}, block, plain, [["l"]], store)["l"]
    assert store.is_dir() and not list(store.iterdir())
    assert torch.equal(kept(), expected)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with refused():
        weighted_moments({"l": linear}, block, plain, [["l"]], store)
