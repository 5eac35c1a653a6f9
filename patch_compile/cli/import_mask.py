"""`patch-compile import-mask`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.import_mask as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["import_mask"]


@command(api.import_mask, summary="Import published masks for `build --mask`.")
@AS_JSON
def import_mask(as_json: bool, **given: Any) -> None:
    """Import published masks: SOURCE → FILE, for `build MODEL_DIR --mask FILE`."""
    print_result(api.import_mask(**given), as_json=as_json)
