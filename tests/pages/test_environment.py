"""The page of environment variables names all variables that the code reads or sets."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "patch_compile",
    "masklearn",
    "plugins/kernels",
    "plugins/dense_path",
    "plugins/tensorrt",
    "benchmarks/kernels",
)
# A macro of TensorRT's headers, and a name of sysconf.
NO_VARIABLES = {"TRT_MAJOR_RTX", "SC_CLK_TCK"}


def variables() -> set[str]:
    """Names in quotes that the file itself does not define, in files that look at the environment."""
    found: set[str] = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            text = path.read_text() if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh") else ""
            if "environ" in text or "getenv(" in text:
                named = set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|CUDACXX)"', text))
                found |= {name for name in named if not re.search(rf"^{name}\b", text, re.MULTILINE)}
    return found - NO_VARIABLES


def test_every_variable_is_on_the_page() -> None:
    page = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "docs/reference/environment.md").read_text()))
    found = variables()
    assert {"PATCH_PDL", "TENSORRT_ROOT", "MKL_CBWR", "PATCH_COMPILE_DEBUG", "CUDACXX"} <= found
    assert sorted(found - page) == []
