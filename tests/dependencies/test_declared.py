"""The lowest versions in pyproject.toml, the reasons given there, and the packages that the image installs by hash."""

import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.dependencies.declared import ROOT, TESTED, floor, project
from tests.refusals import refused

CONSTRAINTS = ROOT / "packaging" / "constraints.txt"
MAKEFILE = (ROOT / "Makefile").read_text()
MACHINE = re.compile(re.findall(r"^MACHINE := (.*)$", MAKEFILE, re.M)[0])
REASON = re.compile(r"^#   ([\w-]+) +(\d[\d.]*) +\S", re.M)
PINNED = re.compile(r"^([\w.-]+)==([\w.+]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)


def test_user_packages_have_lowest_versions():
    for extra, requirements in project().items():
        for one in requirements:
            if extra != "dev":
                assert Version(floor(one))


def test_user_packages_end_before_a_major_version():
    for extra, requirements in project().items():
        for one in requirements:
            ends = [Version(part.version) for part in one.specifier if part.operator == "<"]
            if extra != "dev":
                assert len(ends) == 1 and (ends[0].minor == 0 or ends[0].major == 0), one


def test_the_tested_versions_are_in_the_declared_ranges():
    """Torch, and what its build for a machine decides, have none."""
    tested = [Requirement(line) for line in CONSTRAINTS.read_text().splitlines() if line[0] not in "# "]
    versions = {}
    for one in tested:
        versions.setdefault(canonicalize_name(one.name), []).append(next(iter(one.specifier)).version)
    assert not any(MACHINE.fullmatch(name) for name in versions)
    for extra in ("", *TESTED, "dev"):
        for one in project()[extra]:
            name = canonicalize_name(one.name)
            found = versions.get(name, [])
            assert found or MACHINE.fullmatch(name), one
            assert all(one.specifier.contains(version, prereleases=True) for version in found), one


def test_workflows_run_targets_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", MAKEFILE, re.M))
    known = {name for line in targets for name in line.split()}
    (file,) = (ROOT / ".github/workflows").glob("*.yml")
    jobs = yaml.safe_load(file.read_text())["jobs"]
    asked = {*jobs["make"]["strategy"]["matrix"]["target"]}
    asked |= set(
        re.findall(r"make ([a-z]\S*)", " ".join(str(step.get("run")) for step in jobs["newest"]["steps"]))
    )
    assert asked == {"lint", "test", "demo", "newest"} and asked <= known


def test_the_reasons_are_those_of_the_versions():
    lowest = {one.name: floor(one) for group in project().values() for one in group if one.specifier}
    reasons = dict(REASON.findall((ROOT / "pyproject.toml").read_text()))
    assert len(reasons) >= 10
    assert {name: lowest[name] for name in reasons} == reasons


def test_a_requirement_without_a_lowest_version_is_refused():
    with refused(ValueError):
        floor(Requirement("numpy<3"))


@pytest.mark.parametrize("extra", ["serve", "rtx"])
def test_the_image_installs_by_hash_what_is_declared(extra):
    text = (ROOT / "packaging" / f"{extra}.lock").read_text()
    pinned = PINNED.findall(text)
    assert len(pinned) == len(re.findall(r"^\S+==", text, re.M))  # each has hashes
    versions = {canonicalize_name(name): version for name, version, _ in pinned}
    declared = project()[extra] + (project()[""] if extra == "serve" else [])
    for one in declared:
        assert one.specifier.contains(versions[canonicalize_name(one.name)], prereleases=True), one
    assert "torch" not in versions
