"""Fusions: operations that a linear's node may compute in addition to its product. `--fuse` chooses them."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from masklearn.base.registry import Registry

_ALL, _NONE = "all", "none"
# Fusions that compute several linears in one product. The plan depends on them.
GATED, QKV = "gated", "qkv"


class Fusion:
    """Traits of a fusion, for recipes and `--help`; `patch_compile.passes.fusion.base.FusionPass` is a fusion that runs.

    name: value of `--fuse`; summary: the fused operations, in words; place: fusions run in ascending order of it;
    reads_activation: True if it needs the activation that follows a linear.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    place: ClassVar[int]
    reads_activation: ClassVar[bool] = False


FUSIONS: Registry[Fusion] = Registry("patch_compile.passes.fusion", order=lambda kind: kind.place)


def parse_fusions(text: object) -> tuple[str, ...]:
    """Parse `all`, `none`, or names such as `qkv,gated`. Returns names without duplicates, in the order of their passes.

    True and False stand for `all` and `none`, because YAML files may contain them. Raises a ValueError of one line for an
    unknown name.
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
            f"{unknown[0]!r} is not a fusion. It takes {_ALL}, {_NONE}, or some of {known} with commas between."
        )
    return tuple(fusion for fusion in FUSIONS if fusion in names)


def spell_fusions(fusions: Collection[str]) -> str:
    """Inverse of `parse_fusions`."""
    if not fusions:
        return _NONE
    return _ALL if {*fusions} == {*FUSIONS} else ",".join(fusions)
