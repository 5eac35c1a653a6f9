"""Lets operations of one scenario fail, all of them or some, and appends the results to those of `make torture`.

    python -m tests.attacks.faults "oneshot with repair"                        # every fault at every operation
    python -m tests.attacks.faults "oneshot with repair" --count 450 --seed 1   # so many of them, spread over the run

The exit code is 1 if anything broke.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.attacks.__main__ import show
from tests.attacks.attack import RESULTS, write
from tests.attacks.faults.attacks import run_scenario
from tests.attacks.faults.scenario import SCENARIOS
from tests.attacks.page import facts_of_run


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.faults")
    parser.add_argument("scenario", choices=SCENARIOS, help=f"of {', '.join(SCENARIOS)}", metavar="SCENARIO")
    parser.add_argument("--count", type=int, help="of attempts, drawn at random [all]")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args(arguments)
    if given.count is not None and given.count < 1:
        parser.error("--count is 1 or more")
    started = time.monotonic()
    attacks = run_scenario(given.scenario, given.count, given.seed)
    seconds = time.monotonic() - started
    size = "full" if given.count is None else f"{given.count:,}, drawn"
    write(attacks, RESULTS, facts_of_run("faults", size=size, seconds=seconds, part=given.scenario))
    show(given.scenario, attacks, seconds)
    return 1 if any(one.broken for one in attacks) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
