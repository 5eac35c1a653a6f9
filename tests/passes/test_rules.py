import importlib
import pkgutil
from pathlib import Path

import pytest

import patch_compile.passes as room
from patch_compile.passes import describe_passes, pass_classes, rule_of

ROOT = Path(__file__).parents[2]


def test_every_pass_has_a_rule_with_an_arrow():
    kinds = [kind for kinds in pass_classes().values() for kind in kinds]
    own = [kind for kind in kinds if kind.__module__.startswith("patch_compile.")]
    assert len(own) > 20 and [kind for kind in own if " -> " not in rule_of(kind)] == []


@pytest.mark.parametrize("folder", ["cleanup", "fusion", "lowering"])
def test_every_pass_of_a_folder_is_listed(folder):
    found = set()
    for module in pkgutil.iter_modules([f"{room.__path__[0]}/{folder}"], f"{room.__name__}.{folder}."):
        members = vars(importlib.import_module(module.name)).values()
        found |= {one for one in members if isinstance(one, type) and one.__module__ == module.name}
    passes = {
        one for one in found if one.__name__.endswith("Pass") and not getattr(one, "__abstractmethods__", ())
    }
    assert passes == {kind for kind in pass_classes()[folder] if kind.__module__.startswith(room.__name__)}


def test_the_page_lists_every_pass(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = importlib.import_module("pass_rules").passes()
    for kinds in pass_classes().values():
        assert all(f"\n| {kind.__name__} | {rule_of(kind)} |\n" in page for kind in kinds)


def test_lowering_passes_run_in_the_listed_order():
    listed = [kind.__name__ for kind in pass_classes()["lowering"]]
    run = [name for name, _ in describe_passes() if name in listed]
    assert len(run) > 3 and run == [name for name in listed if name in run]
