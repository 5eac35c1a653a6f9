"""Every reader over its corpus and over seeded mutations of it: it accepts, or it refuses in words."""

import pytest

from patch_compile.errors import PatchCompileError
from tests.attacks import reader as rule
from tests.attacks.mutations import change_bytes
from tests.attacks.reader import CORPUS, FOUND, REFUSED, Reader, accepted, attempt, mutants
from tests.attacks.readers import READERS

pytestmark = pytest.mark.quick

MUTATIONS = 36


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("name", READERS)
def test_the_corpus_is_read(name, tmp_path):
    """Readers accept files of the program's own writers, so mutations get past the first check."""
    reader = READERS[name]
    for file in accepted(name):
        reader.read(file.read_bytes(), tmp_path)
    for file in reader.corpus():
        if file.name.startswith(FOUND):
            crash = attempt(reader, file.read_bytes(), tmp_path)
            assert crash is None, f"{file}: {crash.details}"
        elif file.name.startswith(REFUSED):
            with pytest.raises((PatchCompileError, *reader.refuses)):
                reader.read(file.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_mutations_are_accepted_or_refused_in_words(name, tmp_path):
    reader, changed = READERS[name], []
    for seed, data, differs in mutants(reader, MUTATIONS):
        changed.append(differs)
        crash = attempt(reader, data, tmp_path)
        assert crash is None, f"seed {seed}, input {data[:2000]!r}: {crash.details}"
    assert sum(changed) > len(changed) // 2


def test_readers_and_corpora_match():
    assert {folder.name for folder in CORPUS.iterdir()} == set(READERS)
    assert all(map(accepted, READERS))


def _raise(error):
    raise error


def test_other_errors_and_slowness_are_crashes(tmp_path, monkeypatch):
    def crash(read, data=b""):
        return attempt(Reader("it", read, change_bytes, refuses=(ValueError,)), data, tmp_path)

    assert crash(lambda data, folder: _raise(PatchCompileError("what"))) is None
    assert crash(lambda data, folder: _raise(ValueError())) is None
    assert "in _raise" in crash(lambda data, folder: _raise(KeyError("k"))).details
    # An error of decoding is a ValueError too, and is not meant.
    assert "UnicodeDecodeError" in crash(lambda data, folder: data.decode(), b"\xff").name
    monkeypatch.setattr(rule, "_MOST_SECONDS", 0)
    assert crash(lambda data, folder: sum(range(100_000))).name == "crash-slow-it"
