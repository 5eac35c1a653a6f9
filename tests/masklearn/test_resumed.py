"""`learn` as a library: interrupted at any write it resumes at its block, and never from the files of other arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.learning import Learned
from masklearn.stream import blocks, hidden_states
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny

SETTINGS = {"tile": (32, 32), "ratio": 0.4}
SIZES = {"hidden_size": 64, "intermediate_size": 128}


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


def interrupt(tiny: Tiny, model: Path, share: float, phase: str = "solving", **settings: Any) -> None:
    """Learn until a share of the linears of a phase is done, into the folder "scratch"."""

    def until(what: str, done: int, total: int) -> None:
        if what.startswith(phase) and done >= share * total > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.learn(model, progress=until, **settings)


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
    ("method", "when", "settings"),
    [
        ("oneshot", "after", {}),
        ("oneshot", "middle", {}),
        ("sparsegpt", "before", {}),
        ("wanda", "after", {"permute": True}),
        ("oneshot", "after", {"kinds": "2:4,8:16,12:16", "tile": (32, 64)}),
        ("oneshot", "after", {"weights": "int4", "tile": (32, 64)}),
    ],
)
def test_a_cut_at_any_write_changes_nothing(
    make_model: ModelMaker,
    tiny: Tiny,
    cut_at: Callable[[int, str], None],
    method: str,
    when: str,
    settings: dict[str, Any],
) -> None:
    """Runs are cut at their first to fourth write, so that each gets at most two blocks further."""
    model, given = make_model(**SIZES), settings | {"method": method}
    whole = tiny.learn(model, "whole", **given)
    runs, notes = 0, list[str]()
    while True:
        cut_at(1 + runs % 4, when)
        runs += 1
        try:
            cut = tiny.learn(model, "cut", note=notes.append, **given)
            break
        except KeyboardInterrupt:
            assert runs < 40
    assert same(whole, cut, tiny.folder)
    assert runs > 3 and any("resumes at block" in note for note in notes)
    assert ("permute" in settings) == any("ordering hidden channels resumes" in note for note in notes)


def test_finished_blocks_are_not_run_again(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scratch = make_model(), tiny.folder / "scratch"
    loads: list[str] = []
    real = blocks.Part.load

    def load(part: Any, device: Any) -> None:
        loads.append(next(iter(part.linears), "head"))
        real(part, device)

    monkeypatch.setattr(blocks.Part, "load", load)
    interrupt(tiny, model, 1.0, method="oneshot")  # in the last block, before it is saved
    assert len(loads) == 3 + 3 + 4 + 3  # scoring, forward, back with the head, solving
    states = sorted(file.name for file in scratch.rglob("state-*"))
    assert states == ["state-00002.safetensors"]  # of the block that solving is in, and of no other pass
    loads.clear()
    tiny.learn(model, method="oneshot")
    assert len(loads) == 1 and ".2." in loads[0]
    assert not list(scratch.rglob("state-*"))
    loads.clear()
    tiny.learn(model, method="oneshot")
    assert not loads


@pytest.mark.parametrize("change", [{"ratio": 0.2}, {"seed": 1}, {"windows": 3}, {"method": "oneshot"}])
def test_other_arguments_do_not_resume(make_model: ModelMaker, tiny: Tiny, change: dict[str, Any]) -> None:
    model, given, notes = make_model(), {"method": "sparsegpt"}, list[str]()
    interrupt(tiny, model, 0.4, **given)
    found = tiny.learn(model, note=notes.append, **given | change)
    assert not any("resumes" in note for note in notes)
    assert same(tiny.learn(model, "whole", **given | change), found, tiny.folder)


@pytest.mark.parametrize("damage", ["state", "results", "weights"])
def test_damaged_files_start_the_pass_anew(make_model: ModelMaker, tiny: Tiny, damage: str) -> None:
    model, scratch = make_model(), tiny.folder / "scratch"
    interrupt(tiny, model, 1.0, method="sparsegpt")
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
    found = tiny.learn(model, note=notes.append, method="sparsegpt")
    assert not any("solving resumes" in note for note in notes)
    assert same(tiny.learn(model, "whole", method="sparsegpt"), found, tiny.folder)


def test_self_written_text_is_reused(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = make_model(), {"method": "wanda", "calib": None}
    interrupt(tiny, model, 0.01, "scoring", **given)
    whole, other = (tiny.learn(model, f"whole-{seed}", seed=seed, **given) for seed in (0, 1))
    monkeypatch.setattr("masklearn.text.calibrate.write_text", lambda *_, **__: pytest.fail("written again"))
    found = tiny.learn(model, **given)
    assert found.masks.record.text == whole.masks.record.text != other.masks.record.text
    for name, learned in (("found", found), ("expected", whole)):
        learned.masks.save(tiny.folder / name)
    assert (tiny.folder / "found").read_bytes() == (tiny.folder / "expected").read_bytes()
    monkeypatch.undo()
    assert tiny.learn(model, seed=1, **given).masks.record.text == other.masks.record.text
