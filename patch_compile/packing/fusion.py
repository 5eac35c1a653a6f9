"""What may be computed in the node of a linear beside its product, each of which can be left out: `--fuse`."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from masklearn.registry import Registry

__all__ = ["FUSIONS", "GATED", "QKV", "Fusion", "parse_fusions", "spell_fusions"]

_ALL, _NONE = "all", "none"
# The fusions that make several linears one product, which a plan counts on.
GATED, QKV = "gated", "qkv"


class Fusion:
    """A fusion as a recipe and `--help` know it; `patch_compile.passes.fusion.base.FusionPass` is one that runs.

    name: as `--fuse` takes it; summary: what it takes into a node, in words; place: fusions run from the lowest to the
    highest; reads_activation: it looks for the activation behind a linear.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    place: ClassVar[int]
    reads_activation: ClassVar[bool] = False


FUSIONS: Registry[Fusion] = Registry("patch_compile.passes.fusion", order=lambda kind: kind.place)


def parse_fusions(text: object) -> tuple[str, ...]:
    """Each once, in the order of their passes, from `all`, `none`, or some by name: `qkv,gated`.

    A file may say true or false for the first two. ValueError in one line for a name that is none.
    """
    if isinstance(text, bool):
        text = _ALL if text else _NONE
    names = text.split(",") if isinstance(text, str) else text
    names = [str(name).strip() for name in names] if isinstance(names, list | tuple) else [repr(text)]
    if names in ([], [_NONE], [_ALL]):
        return tuple(FUSIONS) if names == [_ALL] else ()
    if unknown := [name for name in names if name not in FUSIONS]:
        known = ", ".join(FUSIONS)
        raise ValueError(
            f"{unknown[0]!r} is no fusion. It takes {_ALL}, {_NONE}, or some of {known} with commas between."
        )
    return tuple(fusion for fusion in FUSIONS if fusion in names)


def spell_fusions(fusions: Collection[str]) -> str:
    """What `parse_fusions` reads."""
    if not fusions:
        return _NONE
    return _ALL if {*fusions} == {*FUSIONS} else ",".join(fusions)
