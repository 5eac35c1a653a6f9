"""Attacks the program, and prints a row for each kind of attempt, and what broke.

    python -m tests.attacks                 # every attack but `fuzz`, at full size
    python -m tests.attacks faults readers  # some of them
    python -m tests.attacks hostile --only "onnx: " FIFO  # inputs whose names contain one of these words
    python -m tests.attacks faults --only "oneshot with repair" --count 450 --seed 1  # so many of one scenario, drawn
    python -m tests.attacks readers --only masks   # one reader
    python -m tests.attacks mosaics --only 1003    # the problem of a seed
    python -m tests.attacks simulate --seed 7 --steps 20  # 20 steps of a seed, and the next of the next seed
    python -m tests.attacks simulate --only "learn model -o out --ratio 0.4" "write 1 text.txt"  # these steps
    python -m tests.attacks fuzz --count 600       # readers under atheris, so many seconds each

The exit code is 1 if anything broke.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence

from tests.attacks.attack import run

# Modules with a function `attack`, by name on the command line. They run in this order.
MODULES = {
    "faults": "tests.attacks.faults.sweep",
    "readers": "tests.attacks.reader",
    "mosaics": "tests.attacks.mosaic",
    "hostile": "tests.attacks.hostile.cases",
    "plugin": "tests.attacks.plugin",
    "simulate": "tests.attacks.simulator.simulate",
    "fuzz": "tests.attacks.fuzz",
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.attacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[*MODULES, []], help=f"of {', '.join(MODULES)}"
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="a part of the attack")
    parser.add_argument(
        "--count", "--steps", type=int, help="of attempts of `faults`, steps of `simulate`, seconds of `fuzz`"
    )
    parser.add_argument("--seed", type=int, help="of what is drawn")
    given = vars(parser.parse_args(arguments))
    names = given.pop("names")
    options = {name: value for name, value in given.items() if value}
    print(
        "| module | attack | size | tried | held | broken |\n| --- | --- | --- | --: | --: | --: |",
        flush=True,
    )
    codes = []
    for name in names or [name for name in MODULES if name != "fuzz"]:
        # In a process of its own: `hostile` forks, and may not have threads.
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(name, MODULES[name], options)
        )
        process.start()
        process.join()
        codes.append(process.exitcode)
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
