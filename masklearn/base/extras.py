"""Packages that a plain installation leaves out, because running and inspecting builds does not need them.

`pyproject.toml` declares the same packages as extras, and a test compares the two.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from masklearn.base.errors import MaskLearnError

# Import names, by extra: PyTorch and the packages that it needs are most of the bytes.
EXTRAS: Mapping[str, Sequence[str]] = {
    "build": (
        "accelerate",
        "datasets",
        "onnxscript",
        "polygraphy",
        "pyarrow",
        "scipy",
        "torch",
    )
}


def is_installed(package: str) -> bool:
    """True if a package can be imported. It is not imported."""
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def missing_packages(extra: str) -> list[str]:
    return [package for package in EXTRAS[extra] if not is_installed(package)]


def require_extra(extra: str, what: str) -> None:
    """Raise MaskLearnError if packages of an extra are missing. what: the command or step that needs them."""
    if missing := missing_packages(extra):
        raise MaskLearnError(
            f"{what} needs packages that a plain installation leaves out",
            f"Not installed: {', '.join(missing)}.",
            f"Install them: `pip install 'patch-compile[{extra}]'`.",
        )
