import numpy as np
import pytest
import torch

from masklearn.recipe import LearnRecipe
from masklearn.text import calibrate
from masklearn.text.calibrate import too_many_passes, wanted_windows


def wanted(weights: int = 10**8, **settings: object) -> int:
    return wanted_windows(LearnRecipe.parse({"length": 512, "device": "cpu"} | settings), weights)


def test_nothing_is_wanted_where_nothing_trains() -> None:
    assert wanted(repair="none") == 0
    assert wanted(method="sparsegpt") == 0


def test_windows_follow_the_steps_and_the_batch() -> None:
    assert wanted() == wanted(repair_steps=100) == wanted(repair_minutes=30) == 4096
    assert wanted(repair_steps=5000, batch=4) == 20_000
    assert wanted(method="patch-joint", steps=2000, batch=16, repair="none") == 32_000
    assert wanted(method="patch-joint", steps=200, repair_steps=9000) == 18_000
    assert wanted(method="oneshot", steps=100_000) == 4096  # only gradient methods take steps


def test_every_process_takes_windows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert wanted(method="patch-joint", steps=1000, batch=8) == 64_000


def test_a_gpu_reaches_more_in_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "usable_device", lambda _: torch.device("cuda"))
    assert wanted(repair_minutes=1) * 512 == pytest.approx(11.25e6, abs=512)
    assert wanted(10**9, repair_minutes=10) == wanted(repair_minutes=1)
    assert wanted(10**8, repair_minutes=30) * 512 == 2**26
    assert wanted(repair_minutes=1, repair_steps=10) == 4096


def test_ids_stay_below_half_a_gigabyte() -> None:
    assert wanted(repair_steps=10**7) * 512 == 2**26
    assert wanted(repair_steps=10**7, length=2**20) == 4096
    assert 2**26 * np.dtype(np.int64).itemsize <= 2**29


def test_four_passes_over_a_text_are_not_worth_a_word() -> None:
    assert too_many_passes("repair", 400, 100, 512) is None
    told = too_many_passes("repair", 1200, 100, 512)
    assert told is not None
    assert told.startswith("repair goes 12 times over its 51,200 tokens of text; ")
    assert "`calib`" in told
