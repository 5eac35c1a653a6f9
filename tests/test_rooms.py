"""Lines by room, and durations by file: what a change costs is counted right."""

import subprocess

from tests import durations, rooms

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.planning.test_a" name="test_one[1]" time="5.5"/>
<testcase classname="tests.planning.test_a" name="test_two" time="0.5"/>
<testcase classname="tests.test_b" name="test_three" time="0.25"/>
<testcase classname="tests.test_c.TestOne.TestTwo" name="test_four" time="2.0"/>
</testsuite></testsuites>"""


def git(folder, *arguments):
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_change_shows_in_its_room(tmp_path):
    (tmp_path / "pack" / "plan").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("a\n" * 5)
    (tmp_path / "pack" / "plan" / "one.py").write_text("a\n" * 1000)
    (tmp_path / "pack" / "plan" / "page.md").write_text("a\n" * 7)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    (tmp_path / "pack" / "plan" / "one.py").write_text("a\n" * 1200)
    found, changed = rooms.lines(tmp_path), rooms.changes(tmp_path, "HEAD")
    assert changed == {("pack", "plan"): 200}
    assert list(rooms.table(found, changed)) == [
        "pack: 1,205 lines in 2 files",
        "    1,200   +200 plan",
        "        5        .",
    ]


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


def test_durations_are_added_up_by_file(tmp_path):
    (tmp_path / "junit.xml").write_text(JUNIT)
    lines = durations.report(tmp_path / "junit.xml").splitlines()
    assert "    6.0     2 tests/planning/test_a.py" in lines
    assert lines[-1] == "    5.5 tests/planning/test_a.py::test_one[1]"
    assert "    2.0     1 tests/test_c.py" in lines
    assert not any("test_b" in line or "test_two" in line for line in lines)
