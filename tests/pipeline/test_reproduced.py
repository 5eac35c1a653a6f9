"""Two builds of the same inputs give the same bytes, in whatever surroundings, except times and the place of OUT."""

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.reproduce import LEGITIMATE, REPAIR, SURROUNDINGS, compare, run_build, sort_out
from tests.builds import build
from tests.commands import flags_of


def test_surroundings_change_no_byte_but_times_and_places(settings: dict[str, Any], tmp_path: Path) -> None:
    # In windows of another length the number of threads changes the rounding, and so it does in bf16: recipe.yaml has it.
    settings |= {"method": "sparsegpt", "length": 512, "windows": 2}
    text = Path(settings["calib"])
    text.write_text(text.read_text() * 5)
    if "MKL_CBWR" in os.environ:
        build(settings)
    else:  # torch was loaded in this process before MKL was told to compute the same with any number of threads
        given = {name: value for name, value in settings.items() if name not in ("model", "out")}
        command = [str(settings["model"]), *flags_of(given)]
        run_build(command, settings["out"], tmp_path, OMP_NUM_THREADS="1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = elsewhere / "again"
    run_build(["--recipe", str(settings["out"] / "recipe.yaml")], again, elsewhere, **SURROUNDINGS)
    found = [one for _, differences in compare(settings["out"], again) for one in differences]
    allowed, others = sort_out(found, LEGITIMATE)
    assert others == []
    assert {*allowed.values()} == {*LEGITIMATE}  # the list names nothing that is equal


def test_every_difference_is_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for root, seconds, extra in ((one, 1, "a"), (other, 2, "b")):
        (root / "deep").mkdir(parents=True)
        (root / "deep/a.json").write_text(f'{{"seconds": {{"masks": {seconds}}}, "rows": [1, {seconds}]}}')
        notes = [f"4 steps in {seconds} s", f"{seconds} steps in 3 s"]
        (root / "report.json").write_text(json.dumps({"notes": notes}))
        (root / f"only-{extra}").write_text("")
        (root / "same").write_text("same")
    found = dict(compare(one, other))
    assert found["same"] == []
    assert found["deep/a.json"] == ["deep/a.json: rows.1", "deep/a.json: seconds.masks"]
    assert found["report.json"] == ["report.json: notes.0 (seconds)", "report.json: notes.1"]
    allowed, others = sort_out(found["report.json"], REPAIR)
    assert list(allowed) == ["report.json: notes.0 (seconds)"] and others == ["report.json: notes.1"]
    assert found["only-a"] == ["only-a: only in one"] and found["only-b"] == ["only-b: only in other"]
    allowed, others = sort_out(found["deep/a.json"], {"*: seconds.*": "times"})
    assert list(allowed) == ["deep/a.json: seconds.masks"] and others == ["deep/a.json: rows.1"]
