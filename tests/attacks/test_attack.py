"""The results of `make torture`: what they count, and the lines that they are written as."""

import importlib
import json

import pytest

import tests.attacks.__main__ as torture
from tests.attacks.__main__ import MODULES, main
from tests.attacks.attack import Attack, write


def test_results_are_appended_as_lines(tmp_path):
    path = tmp_path / "new" / "RESULTS.jsonl"
    write([Attack.of("die", 3, ["operation 2"])], path)
    write([Attack.of("full disk", 2, [])], path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"attack": "die", "tried": 3, "held": 2, "broken": ["operation 2"]},
        {"attack": "full disk", "tried": 2, "held": 2, "broken": []},
    ]


def test_counts_must_add_up():
    with pytest.raises(ValueError, match="3 tried are not 1 held and 1"):
        Attack("die", 3, 1, ("operation 2",))
    with pytest.raises(ValueError, match="0 tried"):
        Attack.of("die", 0, [])


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2 and "unknown: nothing" in capsys.readouterr().err


def test_anything_broken_is_seen_in_the_exit_code(monkeypatch, tmp_path, capsys):
    found = {"tests.whole": [Attack.of("x", 2, [])], "tests.broken": [Attack.of("y", 2, ["operation 1"])]}

    def module(name):
        return type("Module", (), {"run": staticmethod(lambda small: found[name])})

    monkeypatch.setattr(importlib, "import_module", module)
    monkeypatch.setattr(torture, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(MODULES, "whole", "tests.whole")
    monkeypatch.setitem(MODULES, "broken", "tests.broken")
    assert main(["whole"]) == 0
    assert main(["whole", "broken"]) == 1
    assert "broken: operation 1" in capsys.readouterr().out
    assert len((tmp_path / "results").read_text().splitlines()) == 3
