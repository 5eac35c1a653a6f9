"""patch-compile as a library: one function for each command, with the command's options as arguments.

    import patch_compile

    built = patch_compile.build("models/smollm2-135m", "out", ratio=0.4, backend="onnx")
    print(built.perplexity, built.generator().generate(["The capital of France is"], new_tokens=20))

Importing this package is fast: the modules behind a name are imported when the name is first used.
"""

import importlib
import os as _os
from typing import Any

# ONNX Runtime 1.32 reads this when it is imported. Without it, it writes an id of the machine and a database of events to
# the user's cache folder, to send them. Who wants that sets the variable to 0.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PLACES = {
    "masklearn": ("MaskSet",),
    "patch_compile.errors": ("AccuracyError", "PatchCompileError", "SpeedError", "UsageError"),
    "patch_compile.api.commands": (
        "bench", "build", "build_plugin", "compare", "compile", "doctor", "export", "import_mask", "inspect", "learn",
        "plan", "reduce_linear", "run", "verify",
    ),
    "patch_compile.runtime": (
        "Completion", "Finish", "Generator", "Piece", "Runner", "Sampling", "open_generator",
    ),
}  # fmt: skip
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}
__all__ = sorted(_PLACE_OF)  # `__init__.pyi` has them with their types


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
