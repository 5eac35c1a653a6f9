"""What may be computed in the node of a linear beside its product, each of which can be left out: `--fuse`."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

__all__ = ["Fusion", "parse_fusions", "spell_fusions"]

_ALL, _NONE = "all", "none"


class Fusion(StrEnum):
    """In the order of their passes."""

    BIAS = "bias"
    GATED = "gated"  # activation(gate) · up
    ACTIVATION = "activation"  # GELU, SiLU
    RESIDUAL = "residual"
    QKV = "qkv"  # linears of one X whose outputs are cut into heads


def parse_fusions(text: object) -> tuple[Fusion, ...]:
    """Each once, in the order of their passes, from `all`, `none`, or some by name: `qkv,gated`.

    A file may say true or false for the first two. ValueError in one line for a name that is none.
    """
    if isinstance(text, bool):
        text = _ALL if text else _NONE
    names = text.split(",") if isinstance(text, str) else text
    names = [str(name).strip() for name in names] if isinstance(names, list | tuple) else [repr(text)]
    if names in ([], [_NONE], [_ALL]):
        return tuple(Fusion) if names == [_ALL] else ()
    if unknown := [name for name in names if name not in [*Fusion]]:
        raise ValueError(
            f"{unknown[0]!r} is no fusion: give {_ALL}, {_NONE}, or some of {', '.join(Fusion)} with commas between"
        )
    return tuple(fusion for fusion in Fusion if fusion in names)


def spell_fusions(fusions: Collection[Fusion]) -> str:
    """What `parse_fusions` reads."""
    if not fusions:
        return _NONE
    return _ALL if {*fusions} == {*Fusion} else ",".join(fusions)
