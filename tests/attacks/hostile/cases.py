"""The list of all hostile inputs, and the sample that `make test-full` takes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.attacks.hostile.archives import archive_cases
from tests.attacks.hostile.case import Case, Sound, draw
from tests.attacks.hostile.control import control_cases
from tests.attacks.hostile.graphs import graph_cases
from tests.attacks.hostile.hybrid import hybrid_cases
from tests.attacks.hostile.models import model_cases
from tests.attacks.hostile.options import word_cases
from tests.attacks.hostile.outs import out_cases
from tests.attacks.hostile.tensors import tensor_cases
from tests.attacks.hostile.texts import text_cases

__all__ = ["KINDS", "all_cases", "sample"]

# Kinds of inputs, in words for docs/status/reliability.md.
KINDS = {
    "control": "inputs with nothing wrong in them, which every command accepts",
    "safetensors": "weights (`model.safetensors`): headers, lengths, shapes, types, numbers",
    "masks": "masks (`masks.safetensors`): each field of the metadata, tile maps, patterns",
    "config": "`config.json`: each field with values of other types and sizes",
    "tokenizer": "`tokenizer.json`, `tokenizer_config.json`, `generation_config.json`",
    "index": "`model.safetensors.index.json`",
    "model folder": "links, FIFOs, devices and folders in a model's folder",
    "code": "Python code and pickles that come with a model",
    "npz masks": "archives of masks (`.npz`)",
    "npz inputs": "archives of calibration inputs (`.npz`)",
    "parquet": "Parquet files",
    "onnx": "ONNX files: damaged, nested, circular, with lying shapes and data outside",
    "hybrid onnx": "ONNX files with PatchLinear nodes that lie",
    "texts": "texts: plain, JSON, JSON lines, folders",
    "recipes": "recipes (YAML): each setting, bombs, tags",
    "OUT": "builds of strangers: each field of each JSON file, names that lead outside, unfinished builds",
    "engines": "engines that are none",
    "planted code": "compiled code where a loader may look for it",
    "words": "values of options",
    "paths": "paths of inputs and of OUT",
    "environment": "environment variables",
}
_EACH = 3  # inputs of each kind in the sample


def all_cases(sound: Sound) -> list[Case]:
    """Returns every input, always the same and in the same order. Raises AssertionError if two have one name."""
    cases = list(_cases(sound))
    twice = [name for name, count in Counter(map(str, cases)).items() if count > 1]
    assert not twice, twice
    return cases


def sample(cases: Sequence[Case]) -> list[Case]:
    """Returns some inputs of each kind, always the same."""
    taken = []
    for kind in KINDS:
        of_kind = [case for case in cases if case.kind == kind]
        taken += draw(f"sample/{kind}").sample(of_kind, min(_EACH, len(of_kind)))
    return taken


def _cases(sound: Sound) -> Iterator[Case]:
    yield from control_cases()
    yield from tensor_cases()
    yield from model_cases(sound)
    yield from archive_cases()
    yield from graph_cases()
    yield from hybrid_cases()
    yield from text_cases(sound)
    yield from out_cases(sound)
    yield from word_cases()
