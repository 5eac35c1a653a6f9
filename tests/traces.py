"""Traces each tiny model once, because a trace costs 8 s of CPU time and most builds are of a few tiny models.

Each build gets a copy of the graph. Graphs are kept on the disk for as long as the sources and packages that make them stay
the same, so that tests of the export trace anew after a change of these.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from masklearn.base.durable import whole_file

# fields of a config that do not reach the graph
_OF_PLACE = (
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "transformers_version",
)
_ROOT = Path(__file__).parents[1]
_SOURCES = ("patch_compile/onnx_export", "masklearn/model", "tests/traces.py")
_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


class Traces:
    """`trace_model` with a cache by its arguments.

    kept: folder that keeps graphs for other processes and later runs, None for none.
    """

    def __init__(self, trace: Callable[..., ir.Model], kept: Path | None = None) -> None:
        self._trace = trace
        self._kept = kept
        self._known: dict[str, ir.Model] = {}

    def __call__(self, config: Any, **options: Any) -> ir.Model:
        said = {name: value for name, value in config.to_dict().items() if name not in _OF_PLACE}
        key = f"{type(config).__name__} {json.dumps(said, sort_keys=True, default=str)} {sorted(options.items())}"
        if key not in self._known:
            self._known[key] = self._made(key, lambda: self._trace(config, **options))
        return self._known[key].clone()

    def _made(self, key: str, make: Callable[[], ir.Model]) -> ir.Model:
        if self._kept is None:
            return make()
        file = self._kept / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.onnx"
        if not file.is_file():
            made = make()
            _save(made, file)
            return made
        return _load(file)


def kept_traces() -> Path:
    """Returns the folder of the graphs that these sources and packages make, and removes folders of others."""
    digest = hashlib.sha256(str([importlib.metadata.version(name) for name in _PACKAGES]).encode())
    for source in _SOURCES:
        path = _ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    folder = _ROOT / "build" / "traces" / digest.hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def _save(model: ir.Model, file: Path) -> None:
    """Write a graph whose weights have no data: the file says that they are in another file, which there is not."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        if value.const_value is None:
            assert value.name is not None and value.dtype is not None and value.shape is not None
            value.const_value = ir.ExternalTensor(
                "none", 0, 0, value.dtype, shape=value.shape, name=value.name
            )
    with whole_file(file) as part:
        ir.save(copy, part)


def _load(file: Path) -> ir.Model:
    model = ir.load(file)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return model
