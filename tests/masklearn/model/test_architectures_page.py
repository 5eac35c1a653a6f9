"""docs/reference/architectures.md lists the rows of the table and the families that are tested."""

import re
from pathlib import Path

from masklearn.model.known_architectures import ARCHITECTURES
from tests.families import FAMILIES, MIXTURES, RENAMED, UNEXPORTABLE
from tests.masklearn.model.test_structure import REFUSED

PAGE = (Path(__file__).parents[3] / "docs/reference/architectures.md").read_text()


def named(title: str) -> set[str]:
    """Types that a section names."""
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return {name for name in re.findall(r"`([\w-]+)`", part) if not name.startswith("--")}


def test_every_row_is_listed() -> None:
    listed = PAGE.split("known_architectures.py`:\n\n")[1].split("\n\n")[0]
    assert re.findall(r"`([\w-]+)`", listed) == list(ARCHITECTURES)


def test_every_tested_family_is_listed() -> None:
    families = set(FAMILIES) - set(UNEXPORTABLE)
    listed = PAGE.split("(`make families`):\n\n")[1].split("\n\n")[0]
    assert re.findall(r"`([\w-]+)`", listed) == sorted(families)
    assert set(MIXTURES) - set(UNEXPORTABLE) <= named("Mixtures of experts")


def test_every_refusal_that_is_tested_is_listed() -> None:
    assert named("Refused") >= {*REFUSED, *RENAMED, *UNEXPORTABLE} - {"vit"}
