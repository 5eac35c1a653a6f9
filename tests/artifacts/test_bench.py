import json
from pathlib import Path

from patch_compile.artifacts.bench import BenchReport
from tests.artifacts.benched import benched
from tests.refusals import refused


def test_times_are_read_as_they_were_written(tmp_path: Path) -> None:
    report = benched()
    report.write(tmp_path / "bench/bench.json")
    assert BenchReport.of(tmp_path) == report
    written = json.loads((tmp_path / "bench/bench.json").read_text())
    assert written["rows"][0]["uniform-2:4"]["median_ms"] == 9.4


def test_another_version_says_how_to_time_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "bench").mkdir(parents=True)
    (out / "manifest.json").touch()
    (out / "bench/bench.json").write_text(json.dumps(benched().as_json() | {"schema": 1}))
    with refused():
        BenchReport.of(out)
