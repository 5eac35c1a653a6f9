"""Runs hostile inputs, and prints those that broke something.

python -m tests.attacks.hostile                # all
python -m tests.attacks.hostile --sample       # those that `make test-full` takes
python -m tests.attacks.hostile "onnx: " FIFO  # those whose kind and name contain one of the words
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.attacks.hostile.cases import all_cases, sample
from tests.attacks.hostile.run import prepare, run_cases
from tests.attacks.hostile.sound import make_sound

FOLDER = Path(__file__).parents[3] / "build" / "hostile"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.hostile")
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="take inputs whose kind and name contain one"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth of those chosen")
    parser.add_argument("--sample", action="store_true", help="take some inputs of each kind")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="folder for the files that inputs are made from"
    )
    parser.add_argument("--to", type=Path, help="file for all verdicts, as JSON lines")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands at a time")
    given = parser.parse_args()
    place = given.folder.resolve() / "sound"
    if not (
        given.words or given.sample
    ):  # those of an older version of the program would be hostile themselves
        shutil.rmtree(place, ignore_errors=True)
    sound = make_sound(place)
    cases = all_cases(sound)
    if given.sample:
        cases = sample(cases)
    if given.words:
        cases = [case for case in cases if any(word in str(case) for word in given.words)]
    cases = cases[:: given.every]
    prepare()
    count, broken = Counter[str](), Counter[str]()
    with (given.to or Path(os.devnull)).open("w") as file:
        for verdict in run_cases(cases, sound, given.jobs):
            print(json.dumps(asdict(verdict)), file=file, flush=True)
            count[verdict.kind] += 1
            broken[verdict.kind] += not verdict.held
            if not verdict.held:
                print(verdict, repr(verdict.output[-600:]), sep="\n    ", flush=True)
    print(f"{len(cases)} inputs, {sum(count.values())} commands")
    for kind, runs in count.items():
        print(f"  {kind}: {runs} commands, {broken[kind]} broken")
    return 1 if broken.total() else 0


if __name__ == "__main__":
    sys.exit(main())
