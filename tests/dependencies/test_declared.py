"""The lowest versions in pyproject.toml, the reasons given there, and the packages that the image installs by hash."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.dependencies.declared import ROOT, floor, project
from tests.refusals import refused

REASON = re.compile(r"^#   ([\w-]+) +(\d[\d.]*) +\S", re.M)
PINNED = re.compile(r"^([\w.-]+)==([\w.+]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)


def test_user_packages_have_lowest_versions():
    for extra, requirements in project().items():
        for one in requirements:
            if extra != "dev":
                assert Version(floor(one))


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
