"""Every reader over its corpus and over seeded mutations of it: it accepts, or it refuses in words."""

from __future__ import annotations

import random

import pytest

from patch_compile.errors import PatchCompileError
from tests.attacks.fuzz import mutations
from tests.attacks.fuzz.__main__ import runs_part
from tests.attacks.fuzz.reader import CORPUS, Reader, attempt
from tests.attacks.fuzz.readers import READERS

pytestmark = pytest.mark.quick

MUTATIONS = 36
# Beginnings of names: inputs that once led to an error, and inputs that are refused. All others are accepted.
FOUND, REFUSED = "found-", "refused-"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("name", READERS)
def test_the_corpus_is_read(name, tmp_path):
    """What the program's writers wrote is accepted, so that mutations begin behind the first check."""
    for file in READERS[name].corpus():
        data = file.read_bytes()
        if file.name.startswith(FOUND):
            crash = attempt(READERS[name], data, tmp_path)
            assert crash is None, f"{file}: {crash.details}"
        elif file.name.startswith(REFUSED):
            with pytest.raises((PatchCompileError, *READERS[name].refuses)):
                READERS[name].read(data, tmp_path)
        else:
            READERS[name].read(data, tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_mutations_are_accepted_or_refused_in_words(name, tmp_path):
    """A failure is replayed by the input's seed: random.Random(f"{name}-{seed}")."""
    reader = READERS[name]
    corpus = [file.read_bytes() for file in reader.corpus()]
    changed = 0
    for seed in range(MUTATIONS // reader.cost):
        rng = random.Random(f"{name}-{seed}")
        data = rng.choice(corpus)
        mutated = reader.mutate(data, rng)
        changed += mutated != data
        crash = attempt(reader, mutated, tmp_path)
        assert crash is None, f"seed {seed}, input {mutated[:2000]!r}: {crash.details}"
    assert changed > MUTATIONS // reader.cost // 2


def test_every_reader_has_a_corpus_and_every_corpus_a_reader():
    assert {folder.name for folder in CORPUS.iterdir()} == set(READERS)
    assert all(reader.corpus() for reader in READERS.values())


@pytest.mark.parametrize(("error", "escapes"), [(PatchCompileError("what"), False), (KeyError("k"), True)])
def test_an_error_escapes_unless_it_is_the_projects(error, escapes, tmp_path):
    def read(data, folder):
        raise error

    crash = attempt(Reader("broken", read, mutations.change_bytes), b"", tmp_path)
    assert (crash is not None) is escapes
    if crash:
        assert crash.kind == "KeyError" and "in read" in crash.details


def test_only_the_class_itself_of_another_error_is_allowed(tmp_path):
    """parse_json refuses by ValueError; an error of decoding, which is one too, is not meant."""
    reader = Reader("text", lambda data, folder: data.decode(), mutations.change_bytes, refuses=(ValueError,))
    assert attempt(reader, b"\xff", tmp_path).kind == "UnicodeDecodeError"


def test_an_input_that_takes_too_much_of_the_processor_is_a_crash(tmp_path, monkeypatch):
    reader = Reader("slow", lambda data, folder: sum(range(100_000)), mutations.change_bytes)
    assert attempt(reader, b"", tmp_path) is None
    monkeypatch.setattr("tests.attacks.fuzz.reader._MOST_SECONDS", 0)
    assert attempt(reader, b"", tmp_path).name == "crash-slow-slow"


def test_runs_of_a_reader_add_up():
    run = {
        "reader": "json",
        "inputs": 1500,
        "cpu": 90.0,
        "crashes": 2,
        "ended": "2026-11-26T00:00:00Z",
        "machine": "M",
    }
    later = run | {"cpu": 30.0, "crashes": 0, "ended": "2026-11-27T00:00:00Z"}
    part = runs_part([run, later, later | {"reader": "masks", "crashes": 1}])
    assert part.startswith("M, 2026-11-26 to 2026-11-27.\n")
    assert "| json | 2.0 | 3,000 | 0 | 2 |" in part and "| masks | 0.5 | 1,500 | 1 | 0 |" in part
