"""`learn` as a library: interrupted at any write it resumes at its block, and never from the files of other arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.learning import Learned, learn
from masklearn.recipe import LearnRecipe
from masklearn.stream import blocks, hidden_states
from tests.conftest import ModelMaker

_SETTINGS: dict[str, Any] = {"tile": (32, 32), "windows": 4, "length": 16, "repair": "none", "ratio": 0.4}


def same(one: Learned, other: Learned, folder: Path) -> bool:
    """True if masks and new weights have the same bytes."""
    files = []
    for i, learned in enumerate((one, other)):
        learned.masks.save(folder / str(i))
        files.append((folder / str(i)).read_bytes())
    stores = [learned.checkpoint.new for learned in (one, other)]
    assert stores[0] is not None and stores[1] is not None
    names = stores[0].names()
    assert names == stores[1].names()
    return files[0] == files[1] and all(
        np.array_equal(stores[0].read(name), stores[1].read(name)) for name in names
    )


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """cut_at(n, when) interrupts before, in the middle of or after the n-th write of a checkpoint from now on."""
    real = hidden_states.write_shard

    def cut(number: int, when: str) -> None:
        left = number

        def write(path: Path, *arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left:
                real(path, *arguments)
                return
            if when == "middle":
                path.with_name(f".{path.name}.part1").write_bytes(b"half")
            if when == "after":
                real(path, *arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(hidden_states, "write_shard", write)

    return cut


@pytest.mark.parametrize(
    ("method", "when", "permute"),
    [
        ("oneshot", "after", False),
        ("oneshot", "middle", False),
        ("sparsegpt", "before", False),
        ("wanda", "after", True),
    ],
)
def test_a_cut_at_any_write_changes_nothing(
    make_model: ModelMaker,
    text_file: Path,
    tmp_path: Path,
    cut_at: Callable[[int, str], None],
    method: str,
    when: str,
    permute: bool,
) -> None:
    """Runs are cut at their first to fourth write, so that each gets at most two blocks further."""
    settings = _SETTINGS | {"method": method, "permute": permute, "calib": str(text_file)}
    model, recipe = make_model(), LearnRecipe(**settings)
    whole = learn(model, recipe, tmp_path / "whole")
    runs, notes = 0, list[str]()
    while True:
        cut_at(1 + runs % 4, when)
        runs += 1
        try:
            cut = learn(model, recipe, tmp_path / "cut", note=notes.append)
            break
        except KeyboardInterrupt:
            assert runs < 40
    assert same(whole, cut, tmp_path)
    assert runs > 3 and any("resumes at block" in note for note in notes)
    assert permute == any("ordering hidden channels resumes" in note for note in notes)


def test_finished_blocks_are_not_run_again(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recipe = make_model(), LearnRecipe(method="oneshot", calib=str(text_file), **_SETTINGS)
    loads: list[str] = []
    real = blocks.Part.load

    def load(part: Any, device: Any) -> None:
        loads.append(next(iter(part.linears), "head"))
        real(part, device)

    def until(what: str, done: int, total: int) -> None:
        if what.startswith("solving") and done == total:  # in the last block, before it is saved
            raise KeyboardInterrupt

    monkeypatch.setattr(blocks.Part, "load", load)
    with pytest.raises(KeyboardInterrupt):
        learn(model, recipe, tmp_path / "scratch", until)
    assert len(loads) == 3 + 3 + 4 + 3  # scoring, forward, back with the head, solving
    states = sorted(file.name for file in (tmp_path / "scratch").rglob("state-*"))
    assert states == ["state-00002.safetensors"]  # of the block that solving is in, and of no other pass
    loads.clear()
    learn(model, recipe, tmp_path / "scratch")
    assert len(loads) == 1 and ".2." in loads[0]
    assert not list((tmp_path / "scratch").rglob("state-*"))
    loads.clear()
    learn(model, recipe, tmp_path / "scratch")
    assert not loads


@pytest.mark.parametrize("change", [{"ratio": 0.2}, {"seed": 1}, {"windows": 3}, {"method": "oneshot"}])
def test_other_arguments_do_not_resume(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    model = make_model()
    given = {"method": "sparsegpt", "calib": str(text_file)} | _SETTINGS

    def until(what: str, done: int, _total: int) -> None:
        if what.startswith("solving") and done > 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(model, LearnRecipe(**given), tmp_path / "scratch", until)
    other, notes = LearnRecipe(**(given | change)), list[str]()
    found = learn(model, other, tmp_path / "scratch", note=notes.append)
    assert not any("resumes" in note for note in notes)
    assert same(learn(model, other, tmp_path / "whole"), found, tmp_path)


@pytest.mark.parametrize("damage", ["state", "results", "weights"])
def test_damaged_files_start_the_pass_anew(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, damage: str
) -> None:
    model, recipe = make_model(), LearnRecipe(method="sparsegpt", calib=str(text_file), **_SETTINGS)

    def until(what: str, done: int, total: int) -> None:
        if what.startswith("solving") and done == total:
            raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        learn(model, recipe, scratch, until)
    (blocks_of_solving,) = (scratch / "solved-blocks").iterdir()
    file = {
        "state": blocks_of_solving / "state-00002.safetensors",
        "results": blocks_of_solving / "checkpoint-00000.safetensors",
        "weights": next((scratch / "solved").glob("*layers.0*")),
    }[damage]
    if damage == "weights":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    notes: list[str] = []
    found = learn(model, recipe, scratch, note=notes.append)
    assert not any("solving resumes" in note for note in notes)
    assert same(learn(model, recipe, tmp_path / "whole"), found, tmp_path)


def test_self_written_text_is_reused(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recipe = make_model(), LearnRecipe(method="wanda", **_SETTINGS)

    def until(what: str, done: int, _total: int) -> None:
        if what == "scoring" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(model, recipe, tmp_path / "scratch", until)
    whole = learn(model, recipe, tmp_path / "whole")
    other = learn(model, LearnRecipe(method="wanda", seed=1, **_SETTINGS), tmp_path / "other")
    monkeypatch.setattr("masklearn.text.calibrate.write_text", lambda *_, **__: pytest.fail("written again"))
    found = learn(model, recipe, tmp_path / "scratch")
    assert found.masks.record.text == whole.masks.record.text != other.masks.record.text
    for name, learned in (("found", found), ("expected", whole)):
        learned.masks.save(tmp_path / name)
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()
    monkeypatch.undo()
    seeded = learn(model, LearnRecipe(method="wanda", seed=1, **_SETTINGS), tmp_path / "scratch")
    assert seeded.masks.record.text == other.masks.record.text
