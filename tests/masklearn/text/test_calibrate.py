import hashlib
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers.processors import TemplateProcessing

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.pretrained import load_tokenizer, special_ends
from masklearn.recipe import LearnRecipe
from masklearn.text import SourceKind, calibrate, files
from masklearn.text.calibrate import (
    TokenPool,
    first_windows,
    token_pool,
    too_many_passes,
    wanted_windows,
)
from tests.conftest import ModelMaker
from tests.refusals import refused


class Letters:
    """A tokenizer that makes each letter a token."""

    def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}


def token_windows(
    tokenizer: Any, text: str, length: int, count: int | None = None, seed: int | None = None
) -> NDArray[np.int64]:
    """All windows of a text, or its first `count`, or with `seed` a draw of them."""
    ids = np.concatenate(list(calibrate._token_ids(tokenizer, iter([text]))))
    wanted = len(ids) // length if count is None else count
    windows = calibrate._cut(ids, length, wanted, "")
    if seed is None:
        return windows[:wanted].astype(np.int64)
    return calibrate._draw(windows, wanted, 0, seed, len(windows))


@pytest.mark.parametrize("content", [" " * 4000, "\0" * 4000, "ab" + " " * 4000])
def test_nearly_empty_texts_are_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    class Words:
        def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
            return {"input_ids": [0] * len(text.split())}

    monkeypatch.setattr(calibrate, "_PIECE", 100)
    monkeypatch.setattr(calibrate, "_FEW_TOKENS", 100)
    monkeypatch.setattr(calibrate, "_OF_CHARACTERS", 1000)
    monkeypatch.setattr(files, "_CHUNK", 10)
    (tmp_path / "a.txt").write_text(content)
    with refused():
        first_windows(Words(), tmp_path / "a.txt", 50, 1)


@pytest.mark.parametrize(
    ("piece", "text"), [(7, "ab\nabcd\nabc\n\nabcdefghijk"), (3, "abcdefgh"), (99, "ab")]
)
def test_tokenising_in_pieces_loses_nothing(monkeypatch: pytest.MonkeyPatch, piece: int, text: str) -> None:
    class Marked(Letters):
        def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
            assert 0 < len(text) <= piece
            ids = super().__call__(text, add_special_tokens, verbose)["input_ids"]
            return {"input_ids": [99] * add_special_tokens + ids}

    monkeypatch.setattr(calibrate, "_PIECE", piece)
    ids = token_windows(Marked(), text, len(text) + 1)[0]
    assert ids.tolist() == [99, *(ord(letter) - ord("a") for letter in text)]


def test_a_pool_holds_calibration_and_then_other_windows(make_model: ModelMaker, text_file: Path) -> None:
    checkpoint = Checkpoint.open(make_model(bos_token_id=None))
    recipe = LearnRecipe(calib=str(text_file), windows=5, length=8, seed=3)
    everything = token_windows(load_tokenizer(checkpoint.path), text_file.read_text(), 8)
    alone, some, rest = (token_pool(checkpoint, recipe, training=training) for training in (0, 7, 4096))
    assert [len(pool.windows) for pool in (alone, some, rest)] == [5, 12, len(everything)]
    np.testing.assert_array_equal(alone.windows, rest.calibration())
    np.testing.assert_array_equal(some.windows, rest.windows[:12])
    np.testing.assert_array_equal(np.sort(rest.windows, axis=0), np.sort(everything, axis=0))
    other = token_pool(checkpoint, recipe.model_copy(update={"seed": 4}), training=4096)
    assert not np.array_equal(other.windows, rest.windows)


def test_a_pool_says_where_it_comes_from(make_model: ModelMaker, text_file: Path) -> None:
    checkpoint = Checkpoint.open(make_model())
    pool = token_pool(checkpoint, LearnRecipe(calib=str(text_file), windows=5, length=8, seed=3), training=2)
    assert pool.record.model_dump(mode="json") == {
        "source": "file",
        "name": "text.txt",
        "sha256": hashlib.sha256(b"".join(struct.pack("<q", i) for i in pool.windows.flat)).hexdigest(),
        "tokens": 7 * 8,
        "windows": 5,
        "length": 8,
        "seed": 3,
    }


@pytest.mark.parametrize("kind", ["folder", "dataset"])
def test_every_source_gives_the_same_windows(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, kind: str
) -> None:
    checkpoint = Checkpoint.open(make_model(bos_token_id=None))
    words = text_file.read_text().split()
    documents = [" ".join(words[i : i + 7]) for i in range(0, len(words), 7)]
    folder = tmp_path / "texts"
    folder.mkdir()
    if kind == "folder":
        for i, document in enumerate(documents):
            (folder / f"{i:03}.txt").write_text(document)
    else:
        pq.write_table(pa.table({"text": documents}), folder / "train.parquet")
    calib = str(folder) if kind == "folder" else f"{folder}::train"
    pool = token_pool(checkpoint, LearnRecipe(calib=calib, windows=5, length=16, seed=3))
    expected = token_windows(load_tokenizer(checkpoint.path), text_file.read_text(), 16, 5, 3)
    np.testing.assert_array_equal(pool.windows, expected)
    assert pool.record.source == kind
    assert str(tmp_path) not in pool.record.name


def test_only_needed_text_is_read(
    tmp_path: Path, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading stops behind the characters that windows are drawn from; the last record is unreadable."""
    checkpoint, path = Checkpoint.open(make_model()), tmp_path / "a.jsonl"
    path.write_text('{"text": "the cat sat"}\n' * 200 + "broken")
    monkeypatch.setattr(calibrate, "_PIECE", 50)
    recipe = LearnRecipe(calib=str(path), windows=2, length=8)
    with refused():
        token_pool(checkpoint, recipe)
    monkeypatch.setitem(calibrate._DRAWN_FROM, SourceKind.FILE, 600)
    seen: list[tuple[str, int, int]] = []
    assert len(token_pool(checkpoint, recipe, lambda *step: seen.append(step)).windows) == 2
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)
    assert 600 <= seen[-1][1] < 800
    pool = token_pool(checkpoint, recipe, training=40)
    assert len(pool.windows) == 42
    first = first_windows(load_tokenizer(checkpoint.path), path, 8, 2)
    assert first.dtype == np.int64
    assert first.tolist() == [
        [2, 3, 4, 2, 3, 4, 2, 3],
        [4, 2, 3, 4, 2, 3, 4, 2],
    ]


def test_training_text_does_not_change_calibration(
    make_model: ModelMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(make_model(bos_token_id=None))
    monkeypatch.setattr(calibrate, "_PIECE", 50)
    monkeypatch.setitem(calibrate._DRAWN_FROM, SourceKind.FILE, 400)
    recipe = LearnRecipe(calib=str(text_file), windows=4, length=8)
    every = token_windows(load_tokenizer(checkpoint.path), text_file.read_text(), 8)
    alone, more = (token_pool(checkpoint, recipe, training=training) for training in (0, len(every) - 4))
    np.testing.assert_array_equal(alone.windows, more.calibration())
    np.testing.assert_array_equal(np.sort(more.windows, axis=0), np.sort(every, axis=0))


def test_windows_take_turns_with_the_start_token(make_model: ModelMaker, text_file: Path) -> None:
    """The tokenizer puts nothing before a text, so texts with it and without it are equally likely."""
    recipe = LearnRecipe(calib=str(text_file), windows=6, length=8, seed=3)
    bare, begun = (
        token_pool(Checkpoint.open(make_model(bos_token_id=start)), recipe, training=2).windows
        for start in (None, 1)
    )
    assert (begun[:, 0] == 1).tolist() == [True, True, False, False, True, True, False, False]
    np.testing.assert_array_equal(begun[:, 1:], bare[:, 1:])


def test_all_windows_have_the_tokenizers_ends(make_model: ModelMaker, text_file: Path) -> None:
    path = make_model()
    tokenizer = load_tokenizer(path)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "<s> $A <unk>", special_tokens=[("<s>", 1), ("<unk>", 0)]
    )
    tokenizer.save_pretrained(path)
    assert special_ends(load_tokenizer(path)) == ([1], [0])
    recipe = LearnRecipe(calib=str(text_file), windows=6, length=8)
    windows = token_pool(Checkpoint.open(path), recipe).windows
    assert (windows[:, 0] == 1).all() and (windows[:, -1] == 0).all() and (windows[:, 1:-1] > 1).all()


def test_short_texts_give_what_they_have(make_model: ModelMaker, text_file: Path) -> None:
    """Where the recipe does not say how many windows it needs."""
    checkpoint = Checkpoint.open(make_model())
    every = token_windows(load_tokenizer(checkpoint.path), text_file.read_text(), 100)
    pool = token_pool(checkpoint, LearnRecipe(calib=str(text_file), length=100), widest=10**6)
    assert 0 < pool.count == pool.record.windows == len(every)


@pytest.mark.parametrize("text", [" \n\n ", "the cat"])
def test_texts_without_enough_words(tmp_path: Path, make_model: ModelMaker, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    recipe = LearnRecipe(calib=str(tmp_path / "a.txt"), windows=4, length=8)
    with refused():
        token_pool(Checkpoint.open(make_model()), recipe)
    with refused():
        first_windows(load_tokenizer(make_model()), tmp_path / "a.txt", 8, 4)


def numbered(total: int, count: int) -> TokenPool:
    """A pool whose window i holds the number i."""
    return TokenPool(np.arange(total)[:, None] + np.zeros(3, np.int64), {}, count)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 7), st.integers(0, 3))
def test_batches_take_fresh_windows_first(count: int, more: int, size: int, seed: int) -> None:
    total = count + more
    batches = list(islice(numbered(total, count).batches(size, seed=seed), -(-(more + 3 * total) // size)))
    assert all(batch.shape == (size, 3) for batch in batches)
    order = np.concatenate(batches)[:, 0]
    assert sorted(order[:more]) == list(range(count, total))
    for start in (more, more + total, more + 2 * total):
        assert sorted(order[start : start + total]) == list(range(total))


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 5), st.integers(0, 40))
def test_skipping_batches_goes_on_exactly_where_training_stopped(
    count: int, more: int, size: int, skip: int
) -> None:
    pool = numbered(count + more, count)
    expected = list(islice(pool.batches(size, seed=5), skip, skip + 9))
    np.testing.assert_array_equal(list(islice(pool.batches(size, seed=5, skip=skip), 9)), expected)


def test_skipping_is_cheap_and_passes_differ() -> None:
    pool = numbered(50, 10)
    first = next(pool.batches(50, skip=10**12))
    second, third = islice(pool.batches(50, seed=1), 1, 3)
    assert not np.array_equal(second, third)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("total, count, held", [(200, 32, 16), (40, 32, 5), (32, 32, 4), (2, 2, 1)])
def test_training_never_sees_what_is_held_out(total: int, count: int, held: int) -> None:
    rest, windows = numbered(total, count).held_out()
    assert len(windows) == held
    assert sorted([*rest.windows[:, 0], *windows[:, 0]]) == list(range(total))
    batches = rest.batches(2)
    seen = {int(i) for _ in range(total) for i in next(batches)[:, 0]}
    assert seen == set(rest.windows[:, 0])
    # Calibration windows are held out only when there are no others.
    assert windows.min() >= count or total - count < held


def test_a_single_window_is_both() -> None:
    rest, windows = numbered(1, 1).held_out()
    assert len(rest.windows) == len(windows) == 1


def test_a_model_writes_at_most_64_windows_more(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    pools = [
        token_pool(checkpoint, LearnRecipe(windows=3, length=8), training=training) for training in (5, 4096)
    ]
    assert [len(pool.windows) for pool in pools] == [8, 67]
    assert pools[0].record.source == "self"
    assert pools[0].record.windows == 3


def wanted(weights: int = 10**8, **settings: object) -> int:
    return wanted_windows(LearnRecipe.parse({"length": 512, "device": "cpu"} | settings), weights)


@pytest.mark.parametrize(
    ("settings", "windows"),
    [
        ({"repair": "none"}, 0),
        ({"method": "sparsegpt"}, 0),  # nothing trains
        ({}, 4096),
        ({"repair_steps": 100}, 4096),
        ({"repair_minutes": 30}, 4096),
        ({"repair_steps": 5000, "batch": 4}, 20_000),
        ({"method": "patch-joint", "steps": 2000, "batch": 16, "repair": "none"}, 32_000),
        ({"method": "patch-joint", "steps": 200, "repair_steps": 9000}, 18_000),
        ({"steps": 100_000}, 4096),  # only gradient methods take steps
        ({"repair_steps": 10**7}, 2**26 // 512),
        ({"repair_steps": 10**7, "length": 2**20}, 4096),
    ],
)
def test_windows_follow_the_budget_of_training(settings: dict[str, object], windows: int) -> None:
    assert wanted(**settings) == windows


def test_every_process_takes_windows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert wanted(method="patch-joint", steps=1000, batch=8) == 64_000


def test_a_gpu_reaches_more_in_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "usable_device", lambda _: torch.device("cuda"))
    assert wanted(repair_minutes=1) * 512 == pytest.approx(11.25e6, abs=512)
    assert wanted(10**9, repair_minutes=10) == wanted(repair_minutes=1)
    assert wanted(10**8, repair_minutes=30) * 512 == 2**26
    assert wanted(repair_minutes=1, repair_steps=10) == 4096


def test_four_passes_bring_no_note() -> None:
    assert too_many_passes("repair", 400, 100, 512) is None
    told = too_many_passes("repair", 1200, 100, 512)
    assert told is not None
    assert told.startswith("repair goes 12 times over its 51,200 tokens of text; ")
    assert "`calib`" in told
