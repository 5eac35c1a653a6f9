"""Evaluation text that the masks have seen is found exactly and reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.verify_schema import OverlapUnknown
from patch_compile.report.quality import overlap_words, shared_words
from patch_compile.verification.overlap import check_overlap, overlap
from tests.builds import build
from tests.conftest import WORDS
from tests.work import at_most_calls


@st.composite
def windows(draw: Any, longest: int = 9) -> np.ndarray:
    """Windows of few different tokens, so that they share runs; some tokens are the largest ids."""
    count, length = draw(st.integers(1, 4)), draw(st.integers(1, longest))
    tokens = st.sampled_from([0, 1, 2, 262143])
    rows = draw(st.lists(st.lists(tokens, min_size=length, max_size=length), min_size=count, max_size=count))
    return np.array(rows, np.int64)


def runs_of(window: Any, n: int) -> list[tuple[int, ...]]:
    return [tuple(window[i : i + n].tolist()) for i in range(len(window) - n + 1)]


@given(windows(), windows(), st.integers(1, 7))
def test_it_is_what_sets_of_runs_say(calib: np.ndarray, evaluated: np.ndarray, n: int) -> None:
    found = overlap(calib, evaluated, n)
    known = {run for window in calib for run in runs_of(window, n)}
    shared = [[run in known for run in runs_of(window, n)] for window in evaluated]
    assert found.runs == sum(map(len, shared))
    assert found.shared == sum(map(sum, shared))
    if found.runs:
        shares = [sum(one) / len(one) for one in shared]
        assert found.share == pytest.approx(found.shared / found.runs)
        assert found.worst_share == pytest.approx(max(shares))
        assert found.worst == shares.index(max(shares))
    else:
        assert (found.share, found.worst) == (0.0, None)


@given(windows(), st.integers(1, 7))
def test_a_text_shares_all_of_itself(same: np.ndarray, n: int) -> None:
    found = overlap(same, same, n)
    assert found.shared == found.runs


def test_a_million_tokens_take_no_loop_over_tokens() -> None:
    rng = np.random.default_rng(0)
    calib, evaluated = rng.integers(0, 150_000, (2, 1000, 1000))
    evaluated[7, 100:120] = calib[900, 5:25]
    with at_most_calls(100_000):
        found = overlap(calib, evaluated)
    assert (found.shared, found.worst) == (20 - 13 + 1, 7)
    assert found.runs == 1000 * 988


def test_it_is_said_in_words() -> None:
    text = np.arange(80).reshape(2, 40)
    assert shared_words(overlap(text[:1], text[1:])).startswith("no 13 tokens in a row")
    half = np.concatenate([text[0, :20], text[1, :20]])[None]
    assert shared_words(overlap(text[:1], half)) == (
        "28.6 % of the evaluation text was seen when the masks were learned, by runs of 13 tokens; of its window 0 28.6 %: "
        "perplexity on it looks better than on new text"
    )
    many = np.arange(20_000).reshape(1, -1)
    assert shared_words(overlap(many[:, :13], many)).startswith("less than 0.1 %")
    assert shared_words(overlap(many[:, :13], many)).endswith("phrases, no more")


def other_text(folder: Path) -> str:
    rng = np.random.default_rng(3)
    path = folder / "other.txt"
    path.write_text(" ".join(WORDS[i] for i in rng.integers(0, len(WORDS), 400)))
    return str(path)


def windows_of(settings: dict[str, Any], text: str) -> np.ndarray:
    from masklearn.model.pretrained import load_tokenizer
    from masklearn.text.calibrate import first_windows

    return first_windows(load_tokenizer(settings["model"]), text, 24, 2)


def test_builds_know_their_calibration_text(settings: dict[str, Any], tmp_path: Path) -> None:
    build(settings)
    out = OutFolder.open(settings["out"])
    calib, other = settings["calib"], other_text(tmp_path)

    def told(windows: Any, text: str | None) -> str:
        found = check_overlap(out, windows, text)
        return overlap_words(found) if found else ""

    seen = told(windows_of(settings, calib), calib)
    assert seen.startswith("the masks were learned on the evaluation text, by its sha256; ")
    assert " of the evaluation text was seen when the masks were learned" in seen
    assert told(windows_of(settings, other), other) == ""
    unseen = np.arange(48).reshape(2, 24)  # windows of the text that were not drawn
    assert told(unseen, calib).endswith("in those that were drawn for them")
    copy = tmp_path / "copy.txt"  # another name means another source
    copy.write_text(Path(calib).read_text())
    assert told(windows_of(settings, str(copy)), str(copy)).endswith("than on new text")
    assert check_overlap(out, windows_of(settings, calib), None) is None
    Path(calib).write_text(Path(other).read_text())
    assert "text.txt has changed since" in told(windows_of(settings, other), other)
    Path(calib).unlink()
    assert "is not known: No text at" in told(windows_of(settings, other), other)


def test_repair_has_seen_more_than_calibration(settings: dict[str, Any], tmp_path: Path) -> None:
    build(settings | {"repair": "distill", "repair_steps": 1})
    out = OutFolder.open(settings["out"])
    record = out.manifest.text.calib
    assert record.tokens > record.windows * record.length
    calib = settings["calib"]
    found = check_overlap(out, windows_of(settings, calib), calib)
    assert found and found.same_text and found.shared and found.shared.share == 1.0
    assert "100.0 % of the evaluation text" in overlap_words(found)


def test_masks_from_elsewhere_may_have_seen_anything(settings: dict[str, Any], tmp_path: Path) -> None:
    build(settings)
    given_masks = {name: value for name, value in settings.items() if name not in ("ratio", "calib")}
    given_masks |= {"mask": settings["out"] / "masks.safetensors", "out": tmp_path / "again"}
    build(given_masks)
    again = OutFolder.open(tmp_path / "again")
    text = settings["eval_text"]
    found = check_overlap(again, windows_of(settings, text), text)
    assert found and (found.unknown, found.about) == (OverlapUnknown.GIVEN_MASKS, "masks.safetensors")
    assert overlap_words(found).endswith("the masks come from masks.safetensors")
