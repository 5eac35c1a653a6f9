"""Thousands of seeded mutations through every reader of foreign bytes; `make fuzz` looks further, guided by coverage."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.attack import RESULTS, Attack
from tests.attacks.fuzz.reader import Reader, attempt
from tests.attacks.fuzz.readers import READERS

_SMALL, _FULL = 20, 3000


def run(small: bool) -> list[Attack]:
    """Read mutations of each reader's corpus; those that break it are kept in build/torture."""
    logging.disable(logging.ERROR)
    try:
        return [_attack(reader, (_SMALL if small else _FULL) // reader.cost) for reader in READERS.values()]
    finally:
        logging.disable(logging.NOTSET)


def _attack(reader: Reader, count: int) -> Attack:
    with tempfile.TemporaryDirectory() as folder:
        return Attack.of(f"mutated bytes: {reader.name}", count, _broken(reader, count, Path(folder)))


def _broken(reader: Reader, count: int, folder: Path) -> Iterator[str]:
    corpus = [file.read_bytes() for file in reader.corpus()]
    for seed in range(count):
        rng = random.Random(f"{reader.name}-torture-{seed}")
        data = reader.mutate(rng.choice(corpus), rng)
        if crash := attempt(reader, data, folder):
            kept = RESULTS.parent / f"{reader.name}-{crash.name}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            yield f"{crash.details.strip().splitlines()[-1][:200]} at {crash.place}: {kept}"
