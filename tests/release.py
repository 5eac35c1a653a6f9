"""Checks, before a release, that version, changelog and citation agree: the first step of `make release`.

    python -m tests.release [--final]

Without `--final` a version that is still unreleased is only named.
"""

import re
import sys
import tomllib
from pathlib import Path

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


def main(arguments: list[str]) -> int:
    """Print what does not agree. Returns the exit code."""
    found = faults(ROOT, final="--final" in arguments)
    print(
        *(found or ["Version, changelog and citation agree."]),
        sep="\n",
        file=sys.stderr if found else sys.stdout,
    )
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
