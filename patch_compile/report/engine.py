"""Puts into words what TensorRT did with the 2:4 products of an engine."""

from __future__ import annotations

from patch_compile.out.engine import EngineDetails

__all__ = ["sparsity_words"]


def sparsity_words(engine: EngineDetails) -> str:
    """Returns one sentence, empty for an engine without 2:4 weights that TensorRT's own tactics could run."""
    parts, tactics = engine.sparse_parts, engine.sparse_tactics
    if tactics is None:
        return _no_tactics(parts) if parts else ""
    eligible, chosen = tactics.eligible, tactics.chosen
    if eligible is None or chosen is None:
        return f"TensorRT logged nothing about 2:4 tactics; whether the {parts} 2:4 products run 2:4 is not known"
    if eligible == 0:
        return f"TensorRT found no weight 2:4, so the {parts} 2:4 products of the graph run densely"
    if chosen == 0:
        return (
            f"TensorRT chose no 2:4 tactic for any of {eligible} eligible layers: it timed the dense ones as "
            "faster, so split brings no speed here; --lowering plugin is the other way"
        )
    return f"TensorRT chose 2:4 tactics for {chosen} of {eligible} eligible layers"


def _no_tactics(parts: int) -> str:
    return (
        f"TensorRT-RTX has no 2:4 tactics of its own: the {parts} 2:4 products of split linears run densely; only "
        "--lowering plugin is sparse there"
    )
