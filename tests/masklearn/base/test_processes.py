"""Variables of launchers: the number of processes, and of this one among them."""

from itertools import product

import pytest

from masklearn.base.processes import local_process_count, process_count, process_rank
from tests.refusals import refused


def test_a_process_that_no_launcher_started_is_alone() -> None:
    assert (process_rank(), process_count(), local_process_count()) == (0, 1, 1)


def test_what_a_launcher_says_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert (process_rank(), process_count(), local_process_count()) == (3, 8, 4)


READ = {
    "WORLD_SIZE": process_count,
    "LOCAL_WORLD_SIZE": local_process_count,
    "PMI_RANK": process_rank,
    "RANK": process_rank,
}
NO_NUMBERS = ["stranger", "-1", "", "²", "9" * 30, "1.5"]


@pytest.mark.parametrize(
    ("name", "value"),
    [*product([*READ][:3], NO_NUMBERS), ("WORLD_SIZE", "0"), ("LOCAL_WORLD_SIZE", "0"), ("RANK", "7")],
)
def test_a_number_that_no_launcher_sets_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Such as 0 processes, or a rank beyond the last."""
    monkeypatch.setenv(name, value)
    with refused():
        READ[name]()
