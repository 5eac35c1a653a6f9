"""Plans count the routed experts that a token runs through, whichever way a checkpoint keeps them."""

from pathlib import Path

import pytest

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from patch_compile.planning.outline import outline_of
from tests.families import write_family


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mixtral", {"w1": (96, 64), "w3": (96, 64), "w2": (64, 96)}),
        ("gpt_oss", {"gate_up_proj": (192, 64), "down_proj": (64, 96)}),
    ],
)
def test_two_of_four_experts_are_counted(
    name: str, shapes: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    path = write_family(tmp_path / "model", name, num_hidden_layers=2)
    others = outline_of(Checkpoint.open(path), covered_linears(path)).others
    experts = {plan.name: plan.shape for plan in others if ".experts." in plan.name}
    assert len(experts) == 2 * 2 * len(shapes)
    assert {plan.rpartition(".")[2]: shape for plan, shape in experts.items()} == shapes
    assert not any(".experts.2." in plan for plan in experts)
