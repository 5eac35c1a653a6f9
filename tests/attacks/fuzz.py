"""Runs the readers of foreign bytes under atheris, one on each core: `python -m tests.attacks fuzz`.

Inputs that are learned, and crashes, stay in build/fuzz/READER, so a later run continues an earlier one. An error that
escapes does not end the run of a reader: its input and its traceback are kept, once for each place. A run ends by its own
time on the processor, whatever else the machine does. An input also breaks a reader by more than 10 seconds of the
processor, by a wait of two minutes, or by more than 2 GiB of memory.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random

from tests.attacks.attack import BUILD, Attack
from tests.attacks.reader import CORPUS, attempt

_FOLDER = BUILD.with_name("fuzz")
_LIMITS = (
    "-rss_limit_mb=2048", "-timeout=120", "-report_slow_units=120", "-max_len=65536",
)  # fmt: skip
_ENDED = "inputs when time was over"
_COMPILED = "patch_compile.packing.slabs"  # by numba, which knows nothing of what atheris adds


def attack(*, only: Sequence[str] = (), count: int | None = None) -> list[Attack]:
    """Returns the result of each reader. only: names of readers; count: seconds of the processor for each."""
    from tests.attacks.readers import READERS

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda name: _fuzz(name, count or 120), only or READERS))


def _fuzz(name: str, seconds: int) -> Attack:
    """Run a reader for some seconds of the processor. Raises RuntimeError with the end of its log if it did not run."""
    folder = _FOLDER / name
    crashes, learned, log = (folder / part for part in ("crashes", "learned", "log"))
    shutil.rmtree(crashes, ignore_errors=True)
    for made in (crashes, learned):
        made.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "tests.attacks.fuzz", name, str(crashes), str(seconds), *_LIMITS,
        f"-artifact_prefix={crashes}/", str(learned), str(CORPUS / name),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env=environment)
    text = log.read_text(errors="replace")
    broken = tuple(str(path) for path in sorted(crashes.iterdir()) if path.suffix != ".txt")
    inputs = re.search(rf"{_ENDED}: (\d+)", text)
    if not broken and (done.returncode or inputs is None):
        raise RuntimeError(f"{name} did not run (exit code {done.returncode}):\n{text[-3000:]}")
    tried = max(int(inputs[1]) if inputs else 0, len(broken))
    print(f"{name}: {tried:,} inputs, {len(broken)} crashes", flush=True)
    return Attack(f"fuzzed bytes: {name}", tried, broken)


def _child(arguments: list[str]) -> None:
    """Run one reader until its time is over. arguments: reader, folder for crashes, seconds of the processor, arguments of
    libFuzzer."""
    import atheris

    name, crashes, seconds, *options = arguments
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Parts that the readers import later are instrumented as well, so this block is never left.
    with (
        atheris.instrument_imports(include=["masklearn", "patch_compile"], exclude=[_COMPILED]),
        tempfile.TemporaryDirectory() as made,
    ):
        from tests.attacks.readers import READERS

        reader, folder, found = READERS[name], Path(made), Path(crashes)
        for file in reader.corpus():  # imports parts of the program, which must not count as an input's time
            attempt(reader, file.read_bytes(), folder)

        tried, end = count(), time.process_time() + float(seconds)

        def one(data: bytes) -> None:
            number = next(tried)
            if time.process_time() > end:
                print(f"{_ENDED}: {number}", flush=True)
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)  # libFuzzer takes an ordinary exit for a crash
            crash = attempt(reader, data, folder)
            if crash and not (found / crash.name).exists():
                (found / f"{crash.name}.txt").write_text(crash.details)
                (found / crash.name).write_bytes(data)

        def mutated(data: bytes, most: int, seed: int) -> bytes:
            rng = Random(seed)
            if rng.random() < 0.3:
                return bytes(atheris.Mutate(data, most))
            return reader.mutate(data, rng)[:most]

        atheris.Setup([name, *options], one, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    _child(sys.argv[1:])
