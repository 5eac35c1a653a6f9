"""Lines by room, and durations by file: what a change costs is counted right."""

import subprocess

from tests import rooms


def git(folder, *arguments):
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_more_than_the_budget_fails(tmp_path):
    for path in ("pack/one.py", "tests/a/refusals.txt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("a\n" * 10)
    budget = '[product]\npackages = ["pack"]\nlines = {}\nfiles = 1\n[golden]\ntexts = ["tests/**/*.txt"]\n'
    budget += "lines = {}\nfiles = 1"
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")

    def found(*lines):
        (tmp_path / "tests" / "budget.toml").write_text(budget.format(*lines))
        return list(rooms.over_budget(tmp_path, rooms.lines(tmp_path)))

    assert found(10, 10) == []
    assert found(9, 10) == ["product has 10 lines, and budget.toml allows 9"]
    assert found(10, 9) == ["golden has 10 lines, and budget.toml allows 9"]
