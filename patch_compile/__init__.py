"""patch-compile as a library: one function for each command, with the command's options as arguments.

    import patch_compile

    built = patch_compile.build("models/smollm2-135m", "out", ratio=0.4, backend="onnx")
    print(built.perplexity, built.generator().generate(["The capital of France is"], new_tokens=20))

Importing this package is fast: the modules behind a name are imported when the name is first used.
"""

import importlib
import os as _os
from typing import TYPE_CHECKING, Any

# ONNX Runtime 1.32 reads this when it is imported. Without it, it writes an id of the machine and a database of events to
# the user's cache folder, to send them. Who wants that sets the variable to 0.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from masklearn import MaskSet
    from patch_compile.api.bench import bench
    from patch_compile.api.build import build
    from patch_compile.api.build_plugin import build_plugin
    from patch_compile.api.compare import compare
    from patch_compile.api.compile import compile
    from patch_compile.api.doctor import doctor
    from patch_compile.api.export import export
    from patch_compile.api.import_mask import import_mask
    from patch_compile.api.inspect import inspect
    from patch_compile.api.learn import learn
    from patch_compile.api.plan import plan
    from patch_compile.api.run import run
    from patch_compile.api.verify import verify
    from patch_compile.errors import PatchCompileError, UsageError
    from patch_compile.runtime import (
        Completion,
        Continuation,
        Finish,
        Generator,
        Piece,
        Runner,
        Sampling,
        SharedBatch,
        open_generator,
    )

__all__ = [
    "Completion",
    "Continuation",
    "Finish",
    "Generator",
    "MaskSet",
    "PatchCompileError",
    "Piece",
    "Runner",
    "Sampling",
    "SharedBatch",
    "UsageError",
    "bench",
    "build",
    "build_plugin",
    "compare",
    "compile",
    "doctor",
    "export",
    "import_mask",
    "inspect",
    "learn",
    "open_generator",
    "plan",
    "run",
    "verify",
]

_RUNTIME = (
    "Completion",
    "Continuation",
    "Finish",
    "Generator",
    "Piece",
    "Runner",
    "Sampling",
    "SharedBatch",
    "open_generator",
)
_ELSEWHERE = {
    "MaskSet": "masklearn",
    "PatchCompileError": "patch_compile.errors",
    "UsageError": "patch_compile.errors",
} | dict.fromkeys(_RUNTIME, "patch_compile.runtime")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, f"{__name__}.api.{name}")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
