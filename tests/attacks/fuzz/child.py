"""One reader under atheris: `python -m tests.attacks.fuzz.child READER FOLDER [option of libFuzzer …] CORPUS …`.

An error that escapes does not end the run. Its input and its traceback are written to FOLDER, once for each place.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

import atheris

from tests.attacks.fuzz.reader import attempt

__all__: list[str] = []

_COMPILED = "patch_compile.packing.slabs"  # by numba, which knows nothing of what atheris adds


def main(arguments: list[str]) -> None:
    """Run until libFuzzer ends the process."""
    name, crashes, *options = arguments
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Parts that the readers import later are instrumented as well, so this block is never left.
    with (
        atheris.instrument_imports(include=["masklearn", "patch_compile"], exclude=[_COMPILED]),
        tempfile.TemporaryDirectory() as made,
    ):
        from tests.attacks.fuzz.readers import READERS

        reader, folder, found = READERS[name], Path(made), Path(crashes)
        for file in reader.corpus():  # imports parts of the program, which is no part of an input's time
            attempt(reader, file.read_bytes(), folder)

        def one(data: bytes) -> None:
            crash = attempt(reader, data, folder)
            if crash and not (found / crash.name).exists():
                (found / f"{crash.name}.txt").write_text(crash.details)
                (found / crash.name).write_bytes(data)
                print(f"FOUND {crash.name}", file=sys.stderr, flush=True)

        def mutated(data: bytes, most: int, seed: int) -> bytes:
            rng = Random(seed)
            if rng.random() < 0.3:
                return bytes(atheris.Mutate(data, most))
            return reader.mutate(data, rng)[:most]

        atheris.Setup([name, *options], one, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
