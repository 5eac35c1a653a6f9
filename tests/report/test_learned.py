"""Records of learning in words."""

import pytest

from masklearn.masks.record import BudgetRecord, MaskRecord, PermutedRecord, RepairRecord, TrainRecord
from masklearn.traits import Criterion
from patch_compile.report.learned import learned_lines, score_words


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (
            {"budget": BudgetRecord(ratio=0.35, per_layer=True, unit="weights")},
            ("asked for", "35% of the weights zeroed, of each linear alike"),
        ),
        (
            {"budget": BudgetRecord(ratio="*=0,mlp.*=0.5", unit="weights")},
            ("asked for", "weights zeroed by name of the linear: *=0,mlp.*=0.5"),
        ),
        (
            {"budget": BudgetRecord(amount=812.4, unit="microseconds")},
            ("asked for", "tiles that save 812.4 microseconds"),
        ),
        ({"repair": RepairRecord(method="none", why="an ONNX file")}, ("repair", "none: an ONNX file")),
        (
            {
                "repair": RepairRecord(
                    method="distill", steps=40, tokens=20480, error_first=0.2, error_last=0.1
                )
            },
            (
                "repair",
                (
                    "the surviving weights learned from the dense model: 40 steps on 20,480 tokens; error to the dense "
                    "model "
                    "0.2 before, 0.1 after"
                ),
            ),
        ),
        (
            {
                "repair": RepairRecord(
                    method="distill",
                    steps=42,
                    tokens=64512,
                    kl_first=0.614,
                    kl_last=0.51,
                    scale_steps=21,
                    scales_first=0.603,
                    scales_last=0.531,
                )
            },
            (
                "repair",
                (
                    "the surviving weights learned from the dense model: 42 steps on 64,512 tokens; KL to the dense model "
                    "0.614 before, 0.51 after; scales of the rounded weights trained in 21 more steps: KL 0.603 before, "
                    "0.531 after"
                ),
            ),
        ),
        (
            {
                "train": TrainRecord(
                    prior="wanda", steps=33, tokens=1000, first={}, last={}, kept="last", kl={"last": 0.5}
                )
            },
            (
                "training",
                "33 steps on 1,000 tokens, from wanda; kept: last, with a KL of 0.5 to the dense model",
            ),
        ),
        (
            {"permuted": PermutedRecord(parts=2, channels=3072, dense_error=1e-7)},
            (
                "reordered",
                (
                    "3,072 hidden channels of 2 feed-forward parts, so that weak ones share tiles; that alone "
                    "changes a part’s "
                    "output by 1.0e-07 of its norm"
                ),
            ),
        ),
    ],
)
def test_each_step_is_a_phrase(part: dict[str, object], line: tuple[str, str]) -> None:
    assert list(learned_lines(MaskRecord.model_validate(part))) == [line]


@pytest.mark.parametrize("criterion", list(Criterion))
def test_every_score_has_plain_words(criterion: Criterion) -> None:
    words = score_words(f"{criterion.unit}, per zeroed weight")
    assert words.endswith(", for each weight that is zeroed")
    assert criterion.unit not in words and "order" not in words and "Σ" not in words


def test_a_unit_of_an_unknown_method_is_kept() -> None:
    assert score_words("grains, per zeroed weight") == "grains, per zeroed weight"
