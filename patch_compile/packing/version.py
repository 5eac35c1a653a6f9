"""Refuses PatchLinear nodes of another version than this package reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.artifacts.layout import RECIPE
from patch_compile.errors import PatchCompileError
from patch_compile.packing.function import VERSION

if TYPE_CHECKING:
    import onnx

__all__ = ["check_version", "version_fault"]

_ATTRIBUTE = "plugin_version"


def version_fault(version: object) -> str:
    """Returns what is wrong with a node's `plugin_version`, in words; empty for the version that is read here.

    version: None if the node has none, and then the model's own function computes it, whatever its version.
    """
    if version in (None, str(VERSION)):
        return ""
    return f"it is a PatchLinear of version {str(version)[:20]!r}, and {str(VERSION)!r} is read here: build it again"


def check_version(path: Path, nodes: Iterable[onnx.NodeProto]) -> None:
    """Raise PatchCompileError if a PatchLinear node was written for another version of the plugin."""
    from onnx import helper

    for node in nodes:
        for attribute in node.attribute:
            if attribute.name != _ATTRIBUTE:
                continue
            value = helper.get_attribute_value(attribute)
            version = value.decode(errors="replace") if isinstance(value, bytes) else value
            if version_fault(version):
                shown = str(version)[:20]
                raise PatchCompileError(
                    f"{path} holds PatchLinears of version {shown if shown.isalnum() else repr(shown)}",
                    f"This patch-compile reads version {VERSION}.",
                    f"Build the model again: `patch-compile build --recipe OUT/{RECIPE}`.",
                )
