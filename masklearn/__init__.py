"""masklearn as a library: hybrid masks of dense and 2:4 tiles for the linears of a Hugging Face checkpoint.

    from pathlib import Path
    from masklearn import Checkpoint, LearnRecipe, Task, covered_linears_of, learn_task

    checkpoint = Checkpoint.open("models/smollm2-135m")
    task = Task(checkpoint, covered_linears_of(checkpoint, (), ()), LearnRecipe(ratio=0.4), Path("scratch"))
    learn_task(task).masks.save("masks.safetensors")

Importing this package is fast: the modules behind a name are imported when the name is first used. Before that,
`masklearn.base.threads` sets the environment variables with which torch's threads share the processor with other programs.
"""

import importlib
import pkgutil
import re
from functools import cache
from typing import Any

from masklearn.base.threads import settle_threads

# `__init__.pyi`, which type checkers read, lists the names: `from MODULE import NAME as NAME`.
_STUB = (pkgutil.get_data(__name__, "__init__.pyi") or b"").decode()
_HOMES = {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as", _STUB, re.MULTILINE)}
__all__ = sorted(_HOMES)
_settle_once = cache(settle_threads)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _settle_once()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
