"""The list of all hostile inputs, the sample that `make test-full` takes, and the attack that feeds them to commands."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.attacks.attack import BUILD, Attack
from tests.attacks.hostile.archives import archive_cases
from tests.attacks.hostile.case import LEARN, ONNX_BUILD, Case, Sound, cases
from tests.attacks.hostile.graphs import graph_cases
from tests.attacks.hostile.models import model_cases
from tests.attacks.hostile.options import word_cases
from tests.attacks.hostile.outs import BENCH, COMPARE, INSPECT, RUN, VERIFY, WRITES, out_cases
from tests.attacks.hostile.sound import make_sound
from tests.attacks.hostile.tensors import tensor_cases
from tests.attacks.hostile.texts import text_cases
from tests.attacks.sandbox import Running, Verdict, start
from tests.attacks.values import draw

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
_OF_MODELS = (
    INSPECT,
    f"{INSPECT}/model.safetensors",
    "plan stranger --ratio 0.4",
    f"learn stranger -o out {LEARN}",
)
_OF_FILES = (
    "inspect stranger.safetensors",
    "compile SOUND/model --mask stranger.safetensors -o out",
    "inspect stranger.onnx",
    ONNX_BUILD.format("stranger.onnx"),
    f"learn SOUND/model -o out {LEARN} --calib stranger.txt --method wanda --windows 1 --length 16",
)
_IMPORTED_FIRST = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "torch.onnx._internal.exporter._core", "onnx",
    "onnx_ir", "onnxscript", "onnxruntime", "pyarrow.parquet", "datasets", "accelerate", "scipy.linalg", "tokenizers",
    "numba", "lm_eval.tasks",
)  # fmt: skip


def _controls(sound: Sound) -> Iterator[Case]:
    """Inputs with nothing wrong: they show that the other cases fail only for their hostile part."""

    def copy(*files: tuple[str, str]):
        return lambda sound, folder: [sound.copy(source, folder / to) for source, to in files]

    files = ("masks.safetensors", "model.onnx", "text.txt")
    copied = copy(*((file, f"stranger{Path(file).suffix}") for file in files))
    of_builds = (INSPECT, RUN, COMPARE, VERIFY, BENCH)
    yield from cases("control", _OF_MODELS, [("a model", copy(("model", "stranger")))], codes=(0,))
    yield from cases("control", _OF_FILES, [("files", copied)], codes=(0,))
    makes = [("a build", copy(("out", "stranger")))]
    yield from cases("control", of_builds, makes, codes=(0,), writes=WRITES)


_FAMILIES = (
    _controls, tensor_cases, model_cases, archive_cases, graph_cases, text_cases, out_cases, word_cases,
)  # fmt: skip


def all_cases(sound: Sound) -> list[Case]:
    """Returns every input, always the same and in the same order. Raises AssertionError if two have one name."""
    found = [case for family in _FAMILIES for case in family(sound)]
    twice = [name for name, count in Counter(map(str, found)).items() if count > 1]
    assert not twice, twice
    return found


def sample(found: Sequence[Case]) -> list[Case]:
    """Returns some inputs of each kind, always the same."""
    taken = []
    for kind in KINDS:
        of_kind = [case for case in found if case.kind == kind]
        taken += draw(f"sample/{kind}").sample(of_kind, min(_EACH, len(of_kind)))
    return taken


def attack(*, small: bool = False, only: Sequence[str] = ()) -> list[Attack]:
    """Returns one attack for each kind of input. It counts inputs; an input that breaks any of its commands is broken.

    only: take the inputs whose kind and name contain one of these words.
    """
    place = BUILD / "sound"
    if not only:  # files of an older version of the program would be hostile themselves
        shutil.rmtree(place, ignore_errors=True)
    sound = make_sound(place)
    taken = sample(all_cases(sound)) if small else all_cases(sound)
    taken = [case for case in taken if not only or any(word in str(case) for word in only)]
    _prepare()
    broken: dict[str, dict[str, str]] = {}
    for verdict in _verdicts(taken, sound, 1 if small else os.cpu_count() or 1):
        if verdict.faults:
            broken.setdefault(verdict.kind, {})[verdict.name] = f"{verdict} | {verdict.output[-600:]!r}"
    count = Counter(case.kind for case in taken)
    return [
        Attack(words, count[kind], tuple(broken.get(kind, {}).values()))
        for kind, words in KINDS.items()
        if count[kind]
    ]


def _prepare() -> None:
    """Import what commands import, so that no fork does it again."""
    os.environ |= {
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    for name in [*os.environ]:
        if name.startswith("PATCH_COMPILE_") or name in ("COLUMNS", "FORCE_COLOR"):
            del os.environ[name]
    for name in _IMPORTED_FIRST:
        importlib.import_module(name)
    for package in ("masklearn", "patch_compile"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.freeze()  # no fork copies the memory of these modules to count what refers to it


def _verdicts(taken: Iterable[Case], sound: Sound, jobs: int) -> Iterator[Verdict]:
    """Yield the verdict of every command of every case, in the order in which they end."""
    waiting = [(case, command) for case in taken for command in case.commands][::-1]
    running: list[Running] = []
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as root:
        while waiting or running:
            while waiting and len(running) < jobs:
                case, command = waiting.pop()
                running.append(start(case, command, sound, Path(root) / f"{len(waiting)}"))
            ended = [(one, verdict) for one in running if (verdict := one.poll())]
            for one, verdict in ended:
                running.remove(one)
                yield verdict
            if not ended:
                time.sleep(0.01)
