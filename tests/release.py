"""Checks, before a release, that version, changelog and citation agree: the first step of `make release`.

    python -m tests.release [--final]
    python -m tests.release --bill FILE   # the last step: a bill of materials lists what pyproject.toml requires

Without `--final` a version that is still unreleased is only named.
"""

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from tests.dependencies.declared import project

ROOT = Path(__file__).parents[1]


def faults(root: Path, *, final: bool) -> list[str]:
    """Returns a sentence for each place whose version or date differs from the others."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.*)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    titles = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    found = []
    if cited is None or cited[1] != version:
        found.append(
            f"CITATION.cff has version {cited[1] if cited else 'none'}, and pyproject.toml {version}."
        )
    if titles[:1] != ["Unreleased"]:
        found.append("CHANGELOG.md does not begin with the heading Unreleased.")
    if final and not any(
        re.fullmatch(rf"{re.escape(version)} [-–] \d{{4}}-\d\d-\d\d", title) for title in titles
    ):
        found.append(f"CHANGELOG.md has no heading `{version} - YEAR-MONTH-DAY`.")
    return found


def missing(bill: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each fact that a bill of materials in CycloneDX lacks: our name and version, and a version in
    the declared range for each package that pyproject.toml requires."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    subject = bill["metadata"]["component"]
    found = []
    if (subject["name"], subject["version"]) != (declared["name"], declared["version"]):
        found.append(f"The bill is of {subject['name']} {subject['version']}.")
    listed = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    for required in project()[""]:
        version = listed.get(canonicalize_name(required.name))
        if version is None or not required.specifier.contains(version, prereleases=True):
            found.append(f"The bill lists {required.name} {version}, and {required} is required.")
    return found


def main(arguments: list[str]) -> int:
    """Print what does not agree or is missing. Returns the exit code."""
    if arguments[:1] == ["--bill"]:
        found, agreed = missing(json.loads(Path(arguments[1]).read_text())), "The bill of materials is whole."
    else:
        found = faults(ROOT, final="--final" in arguments)
        agreed = "Version, changelog and citation agree."
    print(
        *(found or [agreed]),
        sep="\n",
        file=sys.stderr if found else sys.stdout,
    )
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
