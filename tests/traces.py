"""Tracing a tiny model costs 5 s of a processor, and most builds here are of a few tiny models: each is traced once.

What a build then does with its graph it does with a copy. Tests of tracing itself trace anew: see conftest.py.
"""

import json
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

__all__ = ["Traces"]

# Of a config: where it was read from, and what does not reach the graph.
_OF_PLACE = ("_name_or_path", "transformers_version")


class Traces:
    """`trace_model`, kept by what it was asked for. fresh: trace whatever is asked for."""

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
