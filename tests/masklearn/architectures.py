"""Sweeps over architectures: `make test` runs three kinds of linears, `make test-full` all of them."""

from collections.abc import Iterable

import pytest
from _pytest.mark.structures import ParameterSet

from masklearn.model.known_architectures import ARCHITECTURES

LANGUAGE_MODELS = tuple(name for name, row in ARCHITECTURES.items() if not row.encoder)
QUICK = ("llama", "gpt2", "qwen2_moe")  # linears, Conv1D, experts


def every(names: Iterable[str] = ARCHITECTURES) -> list[ParameterSet]:
    """The architectures as parameters of a test; all but `QUICK` have the mark `sweep`."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.sweep) for name in sorted(names)]
