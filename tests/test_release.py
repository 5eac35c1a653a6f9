"""Version, changelog and citation agree, and a release where they do not names what is missing."""

import shutil
from importlib.metadata import version
from pathlib import Path

from tests.dependencies.declared import project
from tests.release import ROOT, faults, missing

FILES = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")


def test_they_agree() -> None:
    assert faults(ROOT, final=False) == []


def test_what_does_not_agree_is_named(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    assert [fault for fault in faults(tmp_path, final=True) if "YEAR-MONTH-DAY" in fault]
    changes, cited = tmp_path / "CHANGELOG.md", tmp_path / "CITATION.cff"
    changes.write_text(
        changes.read_text().replace("## Unreleased", "## Unreleased\n\n## 0.1.0 - 2026-12-01", 1)
    )
    assert faults(tmp_path, final=True) == []
    cited.write_text(cited.read_text().replace("version: 0.1.0", "version: 0.0.9"))
    changes.write_text(changes.read_text().replace("## Unreleased\n", "", 1))
    first, second = faults(tmp_path, final=True)
    assert "0.0.9" in first and "Unreleased" in second


def test_a_bill_lists_every_required_package() -> None:
    names = [one.name for one in project()[""]]
    components = [{"name": name, "version": version(name)} for name in names]
    bill = {
        "metadata": {"component": {"name": "patch-compile", "version": version("patch-compile")}},
        "components": components,
    }
    assert missing(bill) == []
    components[names.index("numpy")]["version"] = "1.0"
    del components[names.index("rich")]
    bill["metadata"]["component"]["version"] = "0"
    subject, numpy, rich = missing(bill)
    assert "patch-compile 0." in subject and "numpy 1.0," in numpy and "rich None," in rich
