"""Variables of launchers: the number of processes, and of this one among them."""

import pytest

from masklearn.base.processes import local_process_count, process_count, process_rank
from tests.refusals import refused


def test_a_process_that_no_launcher_started_is_alone() -> None:
    assert (process_rank(), process_count(), local_process_count()) == (0, 1, 1)


def test_what_a_launcher_says_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert (process_rank(), process_count(), local_process_count()) == (3, 8, 4)


@pytest.mark.parametrize("value", ["stranger", "-1", "", "²", "9" * 30, "1.5"])
@pytest.mark.parametrize(
    ("name", "read"),
    [("WORLD_SIZE", process_count), ("PMI_RANK", process_rank), ("LOCAL_WORLD_SIZE", local_process_count)],
)
def test_variables_that_are_no_number_are_named(monkeypatch, name, read, value):
    monkeypatch.setenv(name, value)
    with refused():
        read()


@pytest.mark.parametrize(
    ("name", "read"), [("WORLD_SIZE", process_count), ("LOCAL_WORLD_SIZE", local_process_count)]
)
def test_no_processes_are_none(monkeypatch, name, read):
    monkeypatch.setenv(name, "0")
    with refused():
        read()


def test_a_rank_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")
    with refused():
        process_rank()
