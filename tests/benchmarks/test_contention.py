from pathlib import Path
from typing import Any

import pytest

from benchmarks import checkpoints, contention

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
}  # fmt: skip


@pytest.fixture
def shape(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    config = checkpoints.SHAPES["smollm2-135m"] | TINY
    monkeypatch.setitem(checkpoints.SHAPES, "smollm2-135m", config)
    return config


def test_alone_and_beside_a_busy_process(
    shape: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)  # of this process, for all later tests
    assert contention.main(["--windows", "16", "--length", "128", "--repeats", "1", "--limit", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["alone", "beside 1", "ratio"]
    alone, other = (float(line.split(":")[1].split()[0]) for line in lines[:2])
    assert alone > 0 and other > 0


@pytest.mark.parametrize(("beside", "code"), [(21.9, 0), (22.1, 1)])
def test_more_than_a_tenth_over_the_fair_share_is_exit_code_1(
    beside: float, code: int, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda *_: {0, 1})
    runs = iter([contention.Run(10.0, 9.0), contention.Run(beside, 9.0)])
    monkeypatch.setattr(contention, "_child", lambda *_: next(runs))
    assert contention.main(["--repeats", "1", "--busy", "1"]) == code


def test_a_second_run_in_a_folder_learns_anew(shape: dict[str, Any], tmp_path: Path) -> None:
    checkpoints.write_checkpoint(tmp_path / "model", shape | {"num_hidden_layers": 1})
    left = tmp_path / "model/scratch/left"
    left.parent.mkdir()
    left.touch()
    contention.measure(tmp_path / "model", 2, 16)
    assert left.parent.is_dir() and not left.exists()


def test_the_share_that_busy_processes_leave() -> None:
    assert contention.fair_slowdown(cores=2, busy=1) == 2.0
    assert contention.fair_slowdown(cores=16, busy=1) == 16 / 15
    assert contention.fair_slowdown(cores=1, busy=1) == 2.0
    assert contention.fair_slowdown(cores=2, busy=3) == 4.0


def test_busy_processes_end_with_the_measurement() -> None:
    with contention.busy_processes(2):
        children = set(Path("/proc/self/task").glob("*/children"))
        running = {pid for file in children for pid in file.read_text().split()}
        assert len(running) >= 2
    left = {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
    assert len(left) <= len(running) - 2
