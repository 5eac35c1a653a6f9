"""The table of docs/status/reliability.md shows the last run of each module, with its size."""

from pathlib import Path

import pytest

from tests.attacks.attack import Attack, write
from tests.attacks.page import facts_of_run, renew_page, results_part

PAGE = Path(__file__).parents[2] / "docs/status/reliability.md"


def facts(module, ended, size="full", part=""):
    run = {"module": module, "part": part, "size": size, "seconds": 3, "ended": ended}
    return run | {"machine": "a Xeon, 2 cores", "versions": {"Python": "3.11"}}


def line(attack, tried, broken, run):
    return {"attack": attack, "tried": tried, "held": tried - len(broken), "broken": broken, "run": run}


def test_the_last_run_of_each_module_is_shown():
    part = results_part(
        [
            line("die", 40, ["operation 2"], facts("faults", "2026-11-26T00:00:00Z")),
            line("files", 3000, [], facts("hostile", "2026-11-26T01:00:00Z")),
            line("die | kill", 9, [], facts("faults", "2026-11-27T00:00:00Z", "small")),
        ]
    )
    assert "| faults | die \\| kill | small | 9 | 9 | 0 |" in part and "operation 2" not in part
    assert "| | **all** | | **3,009** | **3,009** | **0** |" in part
    assert "faults: 2026-11-27, a Xeon, 2 cores, Python 3.11." in part


def test_parts_of_a_module_stand_until_the_whole_module_runs_again():
    lines = [
        line("a", 1, [], facts("faults", "2026-11-26T00:00:00Z")),
        line("old b", 20, [], facts("faults", "2026-11-26T01:00:00Z", "20, drawn", "b")),
        line("b", 30, [], facts("faults", "2026-11-26T02:00:00Z", "30, drawn", "b")),
        line("c", 400, [], facts("faults", "2026-11-26T03:00:00Z", "400, drawn", "c")),
    ]
    assert "| | **all** | | **431** | **431** | **0** |" in results_part(lines)
    lines.append(line("a", 5000, [], facts("faults", "2026-11-26T04:00:00Z")))
    assert "| | **all** | | **5,000** |" in results_part(lines)


def test_what_broke_is_listed():
    broken = ["operation 2", "late", "late"]
    part = results_part([line("die", 40, broken, facts("faults", "2026-11-26T00:00:00Z"))])
    assert "| faults | die | full | 40 | 37 | 3 |" in part
    assert part.endswith("- die: `operation 2`\n- die: `late` (2 times)")


def test_a_page_is_renewed_between_its_marks(tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "results.jsonl"
    page.write_text("before\n<!-- torture: begin -->\nold\n<!-- torture: end -->\nafter\n")
    write([Attack.of("die", 3, [])], results, facts_of_run("faults", size="small", seconds=1.2))
    renew_page(page, results)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| faults | die | small | 3 | 3 | 0 |" in text


def test_no_results_are_no_table(tmp_path):
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(ValueError, match="there are no results"):
        renew_page(tmp_path / "page.md", tmp_path / "results.jsonl")


def test_our_page_has_a_place_for_the_table_and_says_what_ran():
    text = PAGE.read_text()
    assert "<!-- torture: begin -->" in text and "| **all** |" in text
