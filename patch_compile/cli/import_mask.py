"""`patch-compile import-mask`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.import_mask as api
from masklearn import IMPORTERS
from patch_compile.artifacts.layout import MASKS
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.cli.options import OPTIONS

__all__ = ["import_mask"]


_OWN = {
    "out": Option(f"File to write ({MASKS}).", "FILE", flags=("-o", "--out")),
    "model": Option("Model that the masks are for.", "MODEL_DIR"),
    "format": Option(
        f"Format of SOURCE: {'; '.join(f'{name}, {kind.summary}' for name, kind in IMPORTERS.items())}. "
        "auto detects it by the content.",
        choices=("auto", *IMPORTERS),
    ),
    "tile": Option("Tile size.", "ROWSxCOLS", "the largest that loses no sparsity"),
    "kinds": Option(
        "Kinds of tiles to look for: 2:4, auto, a list such as 2:4,8:16, or PATTERN=LIST,…. A tile gets the tightest that "
        "holds it.",
        "KINDS",
    ),
    "force": Option("Replace FILE if it exists."),
}


@command(
    api.import_mask,
    OPTIONS | _OWN,
    {"source": "SOURCE"},
    summary="Import published masks for `build --mask`.",
)
@AS_JSON
def import_mask(as_json: bool, **given: Any) -> None:
    """Import published masks: SOURCE → FILE, for `build MODEL_DIR --mask FILE`."""
    print_result(api.import_mask(**given), as_json=as_json)
