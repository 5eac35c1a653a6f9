from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.stream import hidden_states
from masklearn.stream.hidden_states import HiddenStates, PassCheckpoints
from tests.refusals import refused


def filled(
    count: int, store: Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[HiddenStates, list[torch.Tensor]]:
    torch.manual_seed(0)
    windows = [torch.randn(1, 5, 8).to(dtype) for _ in range(count)]
    states = HiddenStates(windows[0], count, store)
    for i, window in enumerate(windows):
        states[i] = window
    return states, windows


@pytest.fixture(params=["in memory", "on the disk"])
def on_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    on_disk = bool(request.param == "on the disk")
    if on_disk:
        monkeypatch.setattr(hidden_states, "_SHARE", 0.0)
    return on_disk


def test_stored_arrays_come_back_equal(tmp_path: Path, on_disk: bool) -> None:
    """Assigning a window changes neither others nor what was read before. A file has no name."""
    states, windows = filled(4, tmp_path)
    assert (states._mapped is not None) is on_disk and not list(tmp_path.iterdir())
    assert all(torch.equal(a, b) for a, b in zip(states, windows, strict=True))
    read = states[2]
    states[2] = windows[0]
    assert torch.equal(states[2], windows[0]) and torch.equal(states[3], windows[3])
    assert torch.equal(read, windows[2])


def test_large_states_go_to_a_file(tmp_path: Path, monkeypatch) -> None:
    size = 4 * 5 * 8 * 3
    for free, on_disk in ((4 * size, False), (4 * size - 1, True)):
        monkeypatch.setattr(hidden_states, "available_memory", lambda _, free=free: free)
        assert (filled(3, tmp_path / "made")[0]._mapped is not None) is on_disk
    usage = hidden_states.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(hidden_states.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with refused():
        filled(3, tmp_path)


def opened(folder: Path, identity: str = "one", notes: list[str] | None = None) -> PassCheckpoints:
    said = [] if notes is None else notes
    return PassCheckpoints(folder, {"of": identity}, "scoring", said.append, lambda: None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("on_disk")
def test_results_and_state_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    hidden, values = filled(3, dtype=dtype)
    first = opened(tmp_path / "pass")
    assert first.start(hidden, 2) == 0
    found = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array([0.1, np.pi])}
    first.add("layers.0.q_proj", found)
    first.add("layers.0.k_proj", {})
    first.finish(hidden)
    for i in range(3):
        hidden[i] = torch.zeros_like(values[i])
    notes: list[str] = []
    second = opened(tmp_path / "pass", notes=notes)
    assert second.start(hidden, 2) == 1
    assert notes == ["scoring resumes at block 2 of 2"]
    assert all(torch.equal(one, values[i]) and one.dtype == dtype for i, one in enumerate(hidden))
    assert list(second.results) == ["layers.0.q_proj", "layers.0.k_proj"]
    for key, array in found.items():
        again = second.results["layers.0.q_proj"][key]
        assert np.array_equal(again, array) and again.dtype == array.dtype
    second.finish(None)
    assert opened(tmp_path / "pass").complete
    assert not list((tmp_path / "pass").glob("state-*"))


def test_missing_space_is_reported_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, values = filled(3)
    full = type("", (), {"free": 2 * 3 * values[0].nbytes - 1})
    monkeypatch.setattr("masklearn.stream.hidden_states.shutil.disk_usage", lambda _: full)
    with refused():
        opened(tmp_path / "pass").start(hidden, 2)
