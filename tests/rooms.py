"""Prints lines and files by room, and how many lines changed since a commit: `python -m tests.rooms [BASE]`.

A room is a folder of a package. Counted are the Python, C++, CUDA and shell files that git knows. Without BASE it is the
commit at which this branch left its upstream; without an upstream no change is shown. Exits with 1 if a part of the
repository is larger than budget.toml allows.
"""

import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = (".py", ".cu", ".cuh", ".cpp", ".h", ".sh")
Room = tuple[str, str]


def room_of(path: str) -> Room:
    """Returns package and room of a file, such as ("masklearn", "masks"); the room "." is the package's own folder."""
    parts = Path(path).parts
    return (parts[0], parts[1]) if len(parts) > 2 else (parts[0] if len(parts) == 2 else ".", ".")


def lines(folder: Path) -> dict[Room, Counter[str]]:
    """Returns the numbers of `lines` and `files` of each room of a checkout."""
    found: dict[Room, Counter[str]] = {}
    for path in _files(folder):
        if path.suffix in _SUFFIXES:
            found.setdefault(room_of(str(path)), Counter()).update(_size(folder / path))
    return found


def over_budget(folder: Path, rooms: dict[Room, Counter[str]]) -> Iterator[str]:
    """Yield a sentence for each part that is larger than tests/budget.toml allows. rooms: from `lines`."""
    budget = folder / "tests/budget.toml"
    for name, part in tomllib.loads(budget.read_text(encoding="utf-8")).items():
        if "packages" in part:
            sizes = [size for (package, _), size in rooms.items() if package in part["packages"]]
        else:
            sizes = [_size(folder / path) for path in _files(folder, *part["texts"])]
        total = sum(sizes, Counter[str]())
        for unit in ("lines", "files"):
            if total[unit] > part[unit]:
                yield f"{name} has {total[unit]:,} {unit}, and {budget.name} allows {part[unit]:,}"


def _files(folder: Path, *globs: str) -> Iterator[Path]:
    listed = _git(folder, "ls-files", "-z", "--", *(f":(glob){glob}" for glob in globs))
    return (Path(path) for path in listed.split("\0") if (folder / path).is_file())


def _size(path: Path) -> Counter[str]:
    return Counter(lines=path.read_bytes().count(b"\n"), files=1)


def changes(folder: Path, base: str) -> Counter[Room]:
    """Returns the lines that each room has gained since a commit, less than 0 where it lost some."""
    found: Counter[Room] = Counter()
    for row in _git(folder, "diff", "--numstat", "--no-renames", base).splitlines():
        added, removed, path = row.split("\t")
        if path.endswith(_SUFFIXES):
            found[room_of(path)] += int(added) - int(removed)
    return found


def table(rooms: dict[Room, Counter[str]], changed: Counter[Room]) -> Iterator[str]:
    """Yield a line for each package, and a line for each of its rooms, the largest first."""
    of_package: dict[str, Counter[str]] = {}
    for (package, _), size in rooms.items():
        of_package.setdefault(package, Counter()).update(size)
    for package, total in sorted(of_package.items()):
        yield f"{package}: {total['lines']:,} lines in {total['files']} files"
        own = [(room, size["lines"]) for room, size in rooms.items() if room[0] == package]
        for room, count in sorted(own, key=lambda item: -item[1]):
            yield (
                f"  {count:7,} {changed[room]:+6,} {room[1]}"
                if changed[room]
                else f"  {count:7,}        {room[1]}"
            )


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str]) -> int:
    folder, base = Path(__file__).parents[1], "".join(arguments)
    if not base:
        command = ["git", "merge-base", "HEAD", "@{upstream}"]
        base = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip()
    found, changed = lines(folder), changes(folder, base) if base else Counter[Room]()
    print("\n".join(table(found, changed)))
    grown = ", ".join(f"{'/'.join(room)} {change:+,}" for room, change in changed.most_common() if change > 0)
    too_large = list(over_budget(folder, found))
    for line in too_large:
        print(
            f"{line}. Take something away{f'; these rooms grew: {grown}' if grown else ''}.", file=sys.stderr
        )
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
