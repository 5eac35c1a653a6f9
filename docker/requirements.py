"""`python3 requirements.py WHEEL [EXTRA…] < LEFT_OUT`: prints the requirements of the wheel and its extras, one per line.

LEFT_OUT: names of packages to leave out. This script uses only the standard library, because it runs before anything is
installed.
"""

import re
import sys
import zipfile
from email.parser import Parser

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<rest>[^;]*)(?:;\s*extra == ['\"](?P<extra>[\w-]+)['\"])?$")


def requirements(wheel: str, extras: set[str], left_out: set[str]) -> list[str]:
    """Returns requirement lines. Raises ValueError for an extra or a left-out package that the wheel does not have."""
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    headers = Parser().parsestr(archive.read(metadata).decode())
    found = [_REQUIREMENT.match(line) for line in headers.get_all("Requires-Dist", [])]
    if None in found:  # a marker other than an extra needs a decision here
        raise ValueError(f"a requirement of {wheel} can't be read")
    unknown = extras - set(headers.get_all("Provides-Extra", []))
    unknown |= left_out - {match["name"] for match in found if match and not match["extra"]}
    if unknown:
        raise ValueError(f"{wheel} knows no {', '.join(sorted(unknown))}")
    wanted = (m for m in found if m and (m["extra"] is None or m["extra"] in extras))
    return [m["name"] + m["rest"].strip() for m in wanted if m["name"] not in left_out]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1], set(sys.argv[2:]), set(sys.stdin.read().split()))))
