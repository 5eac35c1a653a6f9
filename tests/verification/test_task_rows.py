"""Two results of the harness as rows, with the error of their difference."""

import math
from typing import Any

import pytest

from patch_compile.artifacts.verify import TaskDifference, TaskRow, TaskScores
from patch_compile.report.quality import tasks
from patch_compile.verification.tasks import rows_of


def results(acc: list[float], **figures: Any) -> dict[str, Any]:
    """Results of one task, quiz, whose items were right or wrong."""
    mean = sum(acc) / len(acc)
    variance = sum((one - mean) ** 2 for one in acc) / (len(acc) - 1)
    items = [{"acc": one, "filter": "none"} for one in acc]
    return {
        "results": {
            "quiz": {
                "name": "quiz",
                "sample_len": len(acc),
                "acc,none": mean,
                "acc_stderr,none": math.sqrt(variance / len(acc)),
                **figures,
            }
        },
        "samples": {"quiz": items},
        "n-samples": {"quiz": {"original": 99, "effective": len(acc)}},
        "group_subtasks": {},
    }


RIGHT, WRONG = [1.0], [0.0]


def distinguished(dense: Any, pruned: Any) -> list[str]:
    rows = rows_of(dense, pruned)
    return list(tasks(TaskScores(harness="lm-eval", rows=rows, chat_template=False)).lines)


def test_rows_have_what_is_known() -> None:
    dense = results(RIGHT * 6 + WRONG * 4, **{"bits,strict": 1.5, "bits_stderr,strict": "N/A"})
    pruned = results(RIGHT * 5 + WRONG * 5, **{"bits,strict": math.inf, "bits_stderr,strict": "N/A"})
    acc, bits = rows_of(dense, pruned)
    assert (acc.task, acc.metric, acc.samples) == ("quiz", "acc", 10)
    assert (acc.dense, acc.pruned) == (0.6, 0.5)
    assert acc.dense_stderr == pytest.approx(math.sqrt(0.24 / 9))
    assert bits == TaskRow(
        task="quiz",
        metric="bits",
        filter="strict",
        dense=1.5,
        pruned=None,  # JSON has no infinity
        dense_stderr=None,
        pruned_stderr=None,
        samples=10,
        difference=None,
    )


def test_a_difference_within_its_error_is_not_distinguishable() -> None:
    dense, pruned = results(RIGHT * 5 + WRONG * 5), results(WRONG * 2 + RIGHT * 4 + WRONG * 4)
    (note,) = distinguished(dense, pruned)
    assert note == (
        "quiz, acc: dense and pruned model differ by 0.1 per item, within the standard error of 0.18: "
        "not distinguishable at 10 items"
    )


def test_the_same_items_tell_more_than_the_rows() -> None:
    """4 of 100 items turned wrong. That is twice the error of the pairs, but half of the error of the rows, 0.05 each."""
    dense, pruned = results(RIGHT * 50 + WRONG * 50), results(RIGHT * 46 + WRONG * 54)
    assert distinguished(dense, pruned) == []
    dense["results"]["quiz"]["acc,none"] = 0.48  # no mean of the items
    (unpaired,) = distinguished(dense, pruned)
    assert unpaired.endswith("not distinguishable at 100 items")
    dense = results(RIGHT * 50 + WRONG * 50)
    (hardly,) = distinguished(dense, results(RIGHT * 47 + WRONG * 53))
    assert hardly.endswith("1.7 standard errors: hardly distinguishable at 100 items")


def test_models_that_answer_alike_are_said_to() -> None:
    same = results(RIGHT * 3 + WRONG)
    (note,) = distinguished(same, same)
    assert note == "quiz, acc: dense and pruned model are the same on every one of 4 items"


def test_a_figure_without_error_is_not_judged() -> None:
    bits = {"bits,none": 1.0, "bits_stderr,none": "N/A"}
    dense, pruned = results(RIGHT + WRONG, **bits), results(RIGHT + WRONG, **bits | {"bits,none": 1.0001})
    assert not any("bits" in note for note in distinguished(dense, pruned))


def test_groups_have_their_tasks_items() -> None:
    dense, pruned = results(RIGHT * 6 + WRONG * 4), results(RIGHT * 5 + WRONG * 5)
    for one in (dense, pruned):
        one["results"]["all"] = {"name": "all", "acc,none": 0.5, "acc_stderr,none": 0.1}
        one["group_subtasks"] = {"all": ["quiz"]}
    assert [row.samples for row in rows_of(dense, pruned)] == [10, 10]
    assert any(note.startswith("all, acc: ") for note in distinguished(dense, pruned))


def test_perplexities_are_compared_by_log_likelihoods() -> None:
    """Items of 1 and 2 nats, of which each is half a nat worse."""
    dense, pruned = ({**results([-1.0 - off, -2.0 - off])} for off in (0.0, 0.5))
    for one, mean in ((dense, 1.5), (pruned, 2.0)):
        one["results"]["quiz"]["acc,none"] = math.exp(mean)
    (row,) = rows_of(dense, pruned)
    assert row.difference == TaskDifference(value=-0.5, error=0.0, per_item=True, unit="nats")
