"""Gradient runs that are killed and resumed, in one process and in several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.methods import method_of
from masklearn.stream.feed import CheckpointFeed
from tests.masklearn.conftest import Tiny
from tests.masklearn.processes import Runs

_STEPS = 8
# Every tile and most patterns change, so a run that lost a step would end in other masks.
SETTINGS: dict[str, Any] = {
    "method": "patch-joint", "ratio": 0.35, "prior": "wanda", "steps": _STEPS, "learning_rate": 0.05,
    "tile": (32, 32), "device": "cpu",
}  # fmt: skip

Arrays = dict[str, np.ndarray]


def arrays_in(folder: Path) -> list[Arrays]:
    """The candidates of every process."""
    return [dict(np.load(file)) for file in sorted(folder.glob("*.npz"))]


def assert_same(found: Arrays, expected: Arrays, tolerance: float = 0.0) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, err_msg=name)


@pytest.mark.usefixtures("fp32")
def test_killed_and_resumed_ends_in_same_masks(make_model, tiny: Tiny) -> None:
    model = make_model()
    task = tiny.task(model, note=lambda _: None)
    found = method_of(task.recipe.method).candidates(CheckpointFeed(task))
    whole = {name: candidates[TWO_FOUR] for name, candidates in found}
    expected = {f"{name}.pattern": candidate.pattern for name, candidate in whole.items()}
    expected |= {f"{name}.score": candidate.score for name, candidate in whole.items()}
    runs = Runs("candidates", model, task.recipe, tiny.folder)
    (found,) = arrays_in(runs.cut_and_resumed("cut", _STEPS))
    assert_same(found, expected)


def test_several_processes_end_in_the_same_masks(make_model, tiny: Tiny) -> None:
    """All processes end with equal masks. Shards sum the gradient's norm in another order."""
    model, recipe = make_model(), tiny.recipe()
    whole = Runs("masks", model, recipe, tiny.folder, "ddp").finish("whole")
    first, second = arrays_in(whole)
    assert_same(first, second)
    masks = [file.read_bytes() for file in whole.glob("*.safetensors")]
    assert len(masks) == 2 and masks[0] == masks[1]
    for kind, tolerance in (("ddp", 0.0), ("fsdp", 1e-5)):
        runs = Runs("candidates", model, recipe, tiny.folder, kind)
        cut = arrays_in(runs.cut_and_resumed(kind, _STEPS))
        assert len(cut) == 2
        for found in cut:
            assert_same(found, first, tolerance)
