"""Measurements that crash, hang, fail or give NaN get a row that says so, and stop nothing; all by real processes."""

import importlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.kernels import stand_in_stages
from tests.plugins.host_kernel import BENCH
from tests.work import until

assert BENCH.is_dir()  # host_kernel has put it on the path
children, rows, run = map(importlib.import_module, ("children", "rows", "run"))

ABOUT = {"gpu": "stand-in"}
FAILED = {
    "crashes": "signal 11",
    "gives NaN": "a figure is NaN or infinite",
    "hangs": "hangs",
    "raises": "invalid argument",
    "kills the context": "an illegal memory access was encountered",
}
FATAL = {"crashes", "hangs", "kills the context"}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`run.main` whose stages run in processes of stand-ins. Its clock goes on only while a process hangs."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    monkeypatch.setenv("STAND_IN", str(folder))
    library = tmp_path / "libpatch_bench.so"
    library.write_bytes(b"kernels")
    monkeypatch.setenv("PATCH_BENCH_LIBRARY", str(library))
    monkeypatch.setattr(run, "__file__", stand_in_stages.__file__)
    monkeypatch.setattr(run, "torch", stand_in_stages.dry_run.TORCH)
    looks = []

    def clock():
        hanging = [file for file in folder.glob("hangs *") if Path("/proc", file.name.split()[1]).exists()]
        looks.extend(hanging)
        return 1000.0 * len(looks)

    monkeypatch.setattr(run, "_PATIENCE", children.Patience(600.0, 600.0, clock))
    return folder


def test_failures_neither_stop_nor_repeat(stand_in, tmp_path, capfd):
    out = tmp_path / "deep" / "gpu.jsonl"
    assert run.main(["--out", str(out), "--minutes", "60"]) == 1  # a check failed
    written = rows.read_rows(out)
    for stage in run.STAGES:
        own = {row["key"]["config"]: row for row in written if row["stage"] == stage}
        assert tuple(own) == stand_in_stages.NAMES
        assert "failed" not in own["fine"] and "failed" not in own["last"]
        for name, why in FAILED.items():
            assert own[name]["failed"].startswith(why) and own[name]["fatal"] == (name in FATAL)
    tried = [row["key"] for row in written if row["stage"] == "trying"]
    assert len(tried) == len(run.STAGES) * len(stand_in_stages.NAMES) + 1  # the rates once
    said = capfd.readouterr().out
    assert said.count("hangs\n") == len(run.STAGES) and "an illegal memory access was encountered" in said
    assert run.main(["--out", str(out), "--minutes", "60"]) == 1
    assert rows.read_rows(out) == written


@pytest.mark.parametrize("stage", run.STAGES)
def test_a_stage_that_cannot_start_is_told_once(stand_in, tmp_path, capfd, stage):
    (stand_in / "can't start").touch()
    assert run.main(["--out", str(tmp_path / "gpu.jsonl"), "--stages", stage]) == 1
    said = capfd.readouterr().err
    assert said.count("ImportError: libcudart.so is missing") == 2  # in the traceback, and in what is told
    assert f"the stage {stage} is left out, its process can't start: ImportError" in said
    assert [row["stage"] for row in rows.read_rows(tmp_path / "gpu.jsonl")] == ["machine"]


def test_without_time_nothing_begins(stand_in, tmp_path, capfd):
    assert run.main(["--out", str(tmp_path / "gpu.jsonl"), "--minutes", "0"]) == 0
    assert "the time was over in the stage check: run it again to go on" in capfd.readouterr().err
    assert [row["stage"] for row in rows.read_rows(tmp_path / "gpu.jsonl")] == ["machine"]


def test_rows_of_another_library_are_not_mixed(stand_in, tmp_path, capfd):
    (stand_in / "can't start").touch()
    arguments = ["--out", str(tmp_path / "gpu.jsonl"), "--stages", "sweep"]
    assert run.main(arguments) == 1
    (tmp_path / "libpatch_bench.so").write_bytes(b"other kernels")
    assert run.main(arguments) == 2
    assert "name another file" in capfd.readouterr().err


def test_killed_attempts_are_not_repeated(tmp_path):
    before = rows.Rows(tmp_path / "gpu.jsonl", ABOUT)
    before.add("trying", {"stage": "sweep", "key": {"parts": 1}}, {})
    found = rows.Rows(tmp_path / "gpu.jsonl", ABOUT)
    children.settle(found, "its process ended before it did", fatal=False)
    items = [({"parts": parts}, lambda: {"seconds": 1.0}) for parts in (1, 2)]
    code = children.measure_rows("sweep", items, found, dict, lambda: True, math.inf)
    assert code == children.DONE and [row["key"] for row in found.of("sweep")] == [{"parts": 2}]
    assert [row["failed"] for row in found.failed("sweep")] == ["its process ended before it did"]


# As a child it measures for ever; else it starts itself as a child.
MEASURES_FOR_EVER = """
import sys, time
from pathlib import Path
import children, rows
folder = Path(sys.argv[1])
def wait():
    (folder / "began").touch()
    while True:
        time.sleep(1)
children.stop_when_asked()
found, deadline = rows.Rows(folder / "gpu.jsonl", {"gpu": "stand-in"}), time.monotonic() + 600
if len(sys.argv) > 2:
    children.measure_rows("sweep", [({}, wait)], found, dict, lambda: True, deadline)
else:
    children.run_in_children("sweep", [sys.executable, __file__, str(folder), "child"], found, children.Patience(), deadline)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stop", [os.kill, os.killpg])
def test_what_was_stopped_is_tried_again(tmp_path, stop, number):
    """`timeout` and Ctrl-C stop both processes, `kill` only the first."""
    (tmp_path / "script.py").write_text(f"import sys; sys.path.insert(0, {str(BENCH)!r}){MEASURES_FOR_EVER}")
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True) as process:
        until((tmp_path / "began").exists, "the row did not begin")
        stop(process.pid, number)
        assert process.wait() == 128 + number
    found = rows.Rows(tmp_path / "gpu.jsonl", ABOUT)
    children.settle(found, "its process ended before it did", fatal=False)
    assert found.count() == 2 and not found.known("sweep", {})


# Its first row takes until `go` is there, its second one for ever.
SLOW_THEN_HANGS = """
import sys, time
from pathlib import Path
import children, rows
folder = Path(sys.argv[1])
def first():
    (folder / "hangs 1").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return {}
def second():
    (folder / "hangs 2").touch()
    while True:
        time.sleep(1)
items = [({"number": 1}, first), ({"number": 2}, second)]
found = rows.Rows(folder / "gpu.jsonl", {"gpu": "stand-in"})
children.measure_rows("check", items if not (folder / "hangs 2").exists() else [], found,
                      dict, lambda: True, time.monotonic() + 600)
"""


def test_the_first_row_may_take_longer_than_others(tmp_path):
    """In each row the clock goes 20 seconds on: less than the first row may take, more than the second."""
    looks = [0, 0, 0]

    def clock():
        begun = len(list(tmp_path.glob("hangs *")))
        looks[begun] += 1
        assert looks[2] < 100, "the second row was not ended"
        if looks[1] > 5:  # by then it would have been killed
            (tmp_path / "go").touch()
        return 20.0 * ((looks[1] > 2) + (looks[2] > 2))

    (tmp_path / "script.py").write_text(f"import sys; sys.path.insert(0, {str(BENCH)!r}){SLOW_THEN_HANGS}")
    found = rows.Rows(tmp_path / "gpu.jsonl", ABOUT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    patience = children.Patience(30.0, 10.0, clock)
    assert children.run_in_children("check", command, found, patience, math.inf) == children.DONE
    assert [row["key"] for row in found.of("check")] == [{"number": 1}]
    assert [row["failed"] for row in found.failed("check")] == ["hangs"]


def test_an_unknown_configuration_is_named(stand_in, tmp_path, monkeypatch):
    dry_run = importlib.import_module("dry_run")
    monkeypatch.setattr(run, "Kernels", lambda _: dry_run.PlannedKernels(dry_run.card_named("A100-80")))
    with pytest.raises(SystemExit, match="there is no decode-32 here; there are decode-64, "):
        run.main(["--check-only", "decode-32", "--out", str(tmp_path / "gpu.jsonl")])


def test_the_sweep_leaves_out_what_gives_no_answer(tmp_path):
    found = rows.Rows(tmp_path / "gpu.jsonl", ABOUT)
    for name, useless in (("right", False), ("far off", True)):
        found.add("check", {"config": name}, {"faults": [], "worst": 0.5, "useless": useless})
    found.add("check", {"config": "hangs"}, {"failed": "hangs", "fatal": True})
    found.add("sweep", {"config": "crashes", "parts": 1}, {"failed": "signal 11", "fatal": True})
    found.add("sweep", {"config": "big", "parts": 1}, {"failed": "out of memory", "fatal": False})
    assert run._useless(found) == {"far off", "hangs", "crashes"}


def test_cut_lines_are_measured_again(tmp_path):
    path = tmp_path / "gpu.jsonl"
    rows.Rows(path, ABOUT).add("sweep", {"tokens": 1}, {"seconds": 0.5})
    with path.open("a") as file:
        file.write('{"stage": "sweep", "key": {"tok')
    rows.Rows(path, ABOUT).add("sweep", {"tokens": 2}, {"seconds": 0.25})
    assert [row["key"] for row in rows.read_rows(path)] == [{}, {"tokens": 1}, {"tokens": 2}]
