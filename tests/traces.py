"""Traces each tiny model once, because a trace costs 5 s of CPU time and most builds are of a few tiny models.

Each build gets a copy of the graph. Tests of the export trace anew: see conftest.py.
"""

import json
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

# fields of a config that do not reach the graph
_OF_PLACE = ("_name_or_path", "transformers_version")


class Traces:
    """`trace_model` with a cache by its arguments. fresh: trace without the cache."""

    def __init__(self, trace: Callable[..., ir.Model]) -> None:
        self._trace = trace
        self._known: dict[str, ir.Model] = {}
        self.fresh = False

    def __call__(self, config: Any, **options: Any) -> ir.Model:
        if self.fresh:
            return self._trace(config, **options)
        said = {name: value for name, value in config.to_dict().items() if name not in _OF_PLACE}
        key = f"{type(config).__name__} {json.dumps(said, sort_keys=True, default=str)} {sorted(options.items())}"
        if key not in self._known:
            self._known[key] = self._trace(config, **options)
        return self._known[key].clone()
