import importlib

from tests.refusals import refused

rows = importlib.import_module("rows")

ABOUT = {"gpu": "A", "kernels": "1"}


def test_runs_know_earlier_results(tmp_path):
    first = rows.Rows(tmp_path / "deep" / "gpu.jsonl", ABOUT)
    first.add("sweep", {"tokens": 1, "parts": 2}, {"seconds": 0.5})
    again = rows.Rows(tmp_path / "deep" / "gpu.jsonl", ABOUT)
    assert again.known("sweep", {"parts": 2, "tokens": 1}) and not again.known(
        "sweep", {"tokens": 1, "parts": 3}
    )
    assert [row["seconds"] for row in again.of("sweep")] == [0.5]


def test_cut_lines_are_measured_again(tmp_path):
    path = tmp_path / "gpu.jsonl"
    rows.Rows(path, ABOUT).add("sweep", {"tokens": 1}, {"seconds": 0.5})
    with path.open("a") as file:
        file.write('{"stage": "sweep", "key": {"tok')
    again = rows.Rows(path, ABOUT)
    again.add("sweep", {"tokens": 2}, {"seconds": 0.25})
    assert [row["key"] for row in rows.read_rows(path)] == [{}, {"tokens": 1}, {"tokens": 2}]


def test_foreign_rows_are_refused(tmp_path):
    rows.Rows(tmp_path / "gpu.jsonl", ABOUT)
    with refused(ValueError):
        rows.Rows(tmp_path / "gpu.jsonl", ABOUT | {"kernels": "2"})


def test_rows_of_another_process_are_read(tmp_path):
    one, other = (rows.Rows(tmp_path / "gpu.jsonl", ABOUT) for _ in range(2))
    other.add("check", {"config": "decode-64"}, {"faults": []})
    assert not one.known("check", {"config": "decode-64"})
    one.reread()
    assert one.known("check", {"config": "decode-64"})
