"""Attacks the program at full size, and writes what held and what broke to build/torture/RESULTS.jsonl.

    python -m tests.attacks                 # every kind of attack
    python -m tests.attacks faults server   # some of them
    python -m tests.attacks --small faults  # the few attempts that `make test-full` makes too
    python -m tests.attacks --page docs/status/reliability.md  # no attack: the results as a table of the page

Each module of MODULES has a function `run(small: bool) -> list[Attack]`. The exit code is 1 if anything broke.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from tests.attacks.attack import RESULTS, Attack, write
from tests.attacks.page import facts_of_run, renew_page

# By name on the command line. They run in this order.
MODULES: dict[str, str] = {
    "faults": "tests.attacks.faults.attacks",
    "readers": "tests.attacks.readers",
    "mosaics": "tests.attacks.mosaics",
    "server": "tests.attacks.server",
    "hostile": "tests.attacks.hostile.attack",
    "plugin": "tests.attacks.plugin",
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--small", action="store_true", help="the few attempts that the tests make too")
    parser.add_argument("--page", type=Path, help="only renew this page's table of the results")
    given = parser.parse_args(arguments)
    if given.page:
        renew_page(given.page, RESULTS)
        return 0
    if unknown := set(given.names) - set(MODULES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not given.names:
        RESULTS.unlink(missing_ok=True)
    broken = 0
    for name in given.names or MODULES:
        started = time.monotonic()
        attacks: list[Attack] = importlib.import_module(MODULES[name]).run(small=given.small)
        seconds = time.monotonic() - started
        write(attacks, RESULTS, facts_of_run(name, size="small" if given.small else "full", seconds=seconds))
        broken += sum(len(one.broken) for one in attacks)
        show(name, attacks, seconds)
    return 1 if broken else 0


def show(name: str, attacks: list[Attack], seconds: float) -> None:
    """Print what held and what broke."""
    print(f"{name} ({seconds:.0f} s)")
    for one in attacks:
        print(f"  {one.held:7,} of {one.tried:7,} held  {one.attack}", *one.broken, sep="\n    broken: ")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
