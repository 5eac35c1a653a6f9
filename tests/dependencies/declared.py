"""Prints the requirements of pyproject.toml as lines for pip.

python -m tests.dependencies.declared floors   # NAME==LOWEST for each package, as constraints: `make lowest`
python -m tests.dependencies.declared rtx      # the requirements of an extra: `make lock`
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TESTED = ("build", "rtx", "serve")  # extras whose lowest versions a machine without a GPU can test


def project() -> dict[str, list[Requirement]]:
    """Returns the requirements by extra; the project's own requirements under ""."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = {"": declared["dependencies"], **declared["optional-dependencies"]}
    return {extra: [Requirement(line) for line in given] for extra, given in lines.items()}


def floor(requirement: Requirement) -> str:
    """Returns the lowest version. Raises ValueError for a requirement without a lowest version."""
    versions = [one.version for one in requirement.specifier if one.operator == ">="]
    if len(versions) != 1:
        raise ValueError(f"{requirement} needs one lowest version, as in `{requirement.name}>=1.2`")
    return versions[0]


def main(what: str) -> None:
    """Print the lines."""
    if what == "floors":
        for one in (one for extra in ("", *TESTED) for one in project()[extra]):
            print(f"{one.name}=={floor(one)}")
    else:
        print(*project()[what], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
