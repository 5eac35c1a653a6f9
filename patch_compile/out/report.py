"""report.json: its version, and the kind of model that was built."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from patch_compile.out.layout import REPORT
from patch_compile.out.record import FileRecord

__all__ = ["REPORT_SCHEMA", "Kind", "read_report"]

REPORT_SCHEMA = 2  # 1 had no kind, and sentences in its plan and its engine


class Kind(StrEnum):
    """Kinds of model that builds start from. Decoders are compared by next tokens, the others by their outputs."""

    DECODER = "decoder"
    ENCODER = "encoder"
    ONNX = "onnx"


class _Head(FileRecord):
    """The keys that distinguish reports."""

    model_config = ConfigDict(extra="ignore")

    SCHEMA: ClassVar[int] = REPORT_SCHEMA
    WHAT: ClassVar[str] = "a report"
    PLACE: ClassVar[str] = REPORT

    path: str
    kind: Kind


def read_report(out: Path) -> dict[str, Any] | None:
    """Returns the report of OUT, or None if there is none. Raises PatchCompileError for another version or kind."""
    if _Head.of(out) is None:
        return None
    report: dict[str, Any] = json.loads((out / REPORT).read_text(encoding="utf-8"))
    return report
