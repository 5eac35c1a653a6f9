"""Records of OUT as the stages make them, with any part changed."""

from typing import Any

from patch_compile.out.engine import BuiltEngine, EngineReport

_DETAILS: dict[str, Any] = {
    "backend": "tensorrt-rtx", "version": "1.7.0", "targets": ("sm86",), "profiles": ("prefill", "decode"),
    "dtype": "float16", "patch_linears": 120, "bytes": 229_000_000, "packed_bytes": 190_000_000, "sparse_parts": 0,
    "sparse_tactics": None, "seconds": 31.4, "plugin_version": 1,
}  # fmt: skip


def engine_report(**changed: Any) -> EngineReport:
    return EngineReport(**({"file": "model.engine", "plugin": "libpatch_linear.so"} | _DETAILS | changed))


def built_engine(path: str = "/out/engine/model.engine", **changed: Any) -> BuiltEngine:
    return BuiltEngine(**({"path": path} | _DETAILS | changed))
