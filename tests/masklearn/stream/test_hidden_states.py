from pathlib import Path

import pytest
import torch

from masklearn.base.errors import MaskLearnError
from masklearn.stream import hidden_states
from masklearn.stream.hidden_states import HiddenStates


def filled(count: int, store: Path | None = None, **where: bool) -> tuple[HiddenStates, list[torch.Tensor]]:
    torch.manual_seed(0)
    windows = [torch.randn(1, 5, 8) for _ in range(count)]
    states = HiddenStates(windows[0], count, store, **where)
    for i, window in enumerate(windows):
        states[i] = window
    return states, windows


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_put_in_comes_out_bit_for_bit(tmp_path: Path, on_disk: bool) -> None:
    states, windows = filled(4, tmp_path, on_disk=on_disk)
    assert states.on_disk is on_disk
    assert len(states) == 4
    assert all(torch.equal(a, b) for a, b in zip(states, windows, strict=True))
    assert torch.equal(states[1:3][1], windows[2])
    states[2] = windows[0]
    assert torch.equal(states[2], windows[0]) and torch.equal(states[3], windows[3])


def test_a_window_that_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    states, windows = filled(2, tmp_path, on_disk=True)
    read = states[1]
    states[1] = windows[0]
    assert torch.equal(read, windows[1])


def test_they_go_to_a_file_when_a_quarter_of_the_memory_is_too_little(tmp_path: Path, monkeypatch) -> None:
    size = 4 * 5 * 8 * 3
    for free, on_disk in ((4 * size, False), (4 * size - 1, True)):
        monkeypatch.setattr(hidden_states, "available_memory", lambda _, free=free: free)
        assert filled(3, tmp_path / "made")[0].on_disk is on_disk


def test_the_file_leaves_nothing_behind(tmp_path: Path) -> None:
    states, _ = filled(3, tmp_path, on_disk=True)
    assert not list(tmp_path.iterdir())
    states.clear()


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    usage = hidden_states.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(hidden_states.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(MaskLearnError, match=r"no space for the hidden states.*fewer or shorter windows"):
        filled(3, tmp_path, on_disk=True)
