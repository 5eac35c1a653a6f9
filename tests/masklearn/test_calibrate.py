from pathlib import Path

import numpy as np
import pytest

from masklearn import calibrate
from masklearn.calibrate import calibration_windows, load_tokenizer, read_text, token_windows
from masklearn.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker


class Letters:
    """A tokenizer in the only respect that counts here: a letter is a token."""

    def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}


def test_first_windows_follow_the_text() -> None:
    windows = token_windows(Letters(), "abcdefghijk", 3)
    assert windows.dtype == np.int64
    assert windows.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert token_windows(Letters(), "abcdefghijk", 3, count=2).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_draw_is_without_replacement_in_order_and_by_seed() -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    draws = [token_windows(Letters(), text, 2, count=6, seed=seed)[:, 0].tolist() for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 3
    assert all(draw == sorted(set(draw)) and len(draw) == 6 for draw in draws)
    assert token_windows(Letters(), text, 2, count=13, seed=5)[:, 0].tolist() == list(range(0, 26, 2))


@pytest.mark.parametrize(("count", "need"), [(4, 12), (None, 3)])
def test_text_that_is_too_short(count: int | None, need: int) -> None:
    text = "abcdefghijk" if count else "ab"
    with pytest.raises(PatchCompileError, match=rf"too short.*need {need}; it has {len(text)}"):
        token_windows(Letters(), text, 3, count)


@pytest.mark.parametrize(
    ("piece", "text"), [(7, "ab\nabcd\nabc\n\nabcdefghijk"), (3, "abcdefgh"), (99, "ab")]
)
def test_a_long_text_is_tokenised_in_pieces_without_loss(
    monkeypatch: pytest.MonkeyPatch, piece: int, text: str
) -> None:
    class Marked(Letters):
        def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
            assert 0 < len(text) <= piece
            ids = super().__call__(text, add_special_tokens, verbose)["input_ids"]
            return {"input_ids": [99] * add_special_tokens + ids}

    monkeypatch.setattr(calibrate, "_PIECE", piece)
    ids = token_windows(Marked(), text, len(text) + 1)[0]
    assert ids.tolist() == [99, *(ord(letter) - ord("a") for letter in text)]


def test_a_file_or_the_texts_of_a_directory_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second é", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "c.json").write_text("not text", encoding="utf-8")
    assert read_text(tmp_path / "b.txt") == "second é"
    assert read_text(tmp_path) == "first\n\nsecond é"


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(PatchCompileError, match="No text at"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(PatchCompileError, match="No text at"):
        read_text(tmp_path)
    (tmp_path / "x.txt").write_text(" \n\n")
    with pytest.raises(PatchCompileError, match="is empty"):
        read_text(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(PatchCompileError, match="not UTF-8"):
        read_text(tmp_path)


def test_tokenizer_of_a_directory_without_one(make_model: ModelMaker) -> None:
    path = make_model()
    assert load_tokenizer(path)("the cat")["input_ids"] == [2, 3]
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(PatchCompileError, match="has no tokenizer"):
        load_tokenizer(path)


def test_recipe_decides_text_and_draw(make_model: ModelMaker, text_file: Path) -> None:
    checkpoint = Checkpoint.open(make_model())
    recipe = LearnRecipe(calib=text_file, windows=5, length=16, seed=3)
    expected = token_windows(load_tokenizer(checkpoint.path), text_file.read_text(), 16, 5, 3)
    np.testing.assert_array_equal(calibration_windows(checkpoint, recipe), expected)


def test_without_text_the_model_writes_it(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    first, again, other = (
        calibration_windows(checkpoint, LearnRecipe(windows=3, length=8, seed=seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (3, 8)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
