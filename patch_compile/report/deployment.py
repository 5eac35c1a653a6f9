"""Says whether a planned model fits on its card, and whether this machine can build an engine for it."""

from __future__ import annotations

from patch_compile.artifacts.plan_of_model import Builder, Memory

__all__ = ["builder_line", "memory_line"]


def memory_line(memory: Memory, card: str) -> str:
    """Returns in words what of the card's memory the model takes, and how many cards would hold it if one does not."""
    parts = (
        f"weights {_gb(memory.weights)} GB (dense {_gb(memory.dense_weights)}) and KV cache {_gb(memory.cache)} GB of this "
        f"workload"
    )
    size = _gb(memory.card)
    if not memory.fits:
        return (
            f"does not fit: {parts} are more than the {size} GB of one {card}. {memory.cards} such cards would hold it, but "
            "a build runs on one: no speed is promised. Plan for a larger card, or for a smaller workload"
        )
    alone = memory.dense_weights + memory.cache > memory.card
    dense = "; the dense model does not fit" if alone else ""
    return f"memory: {parts}, of {size} GB on {card}{dense}"


def builder_line(builder: Builder | None) -> str:
    """Returns in words that this machine's backend can't build for the target, empty if it can."""
    if builder is None or builder.builds:
        return ""
    return (
        f"{builder.backend} {builder.version}, the backend of this machine, can't build an engine for {builder.target}: it "
        f"builds for {', '.join(builder.targets) or 'none of the known targets'}. Full TensorRT builds it on a machine "
        "with that GPU; --backend onnx stops at the ONNX file"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}" if count % 10**9 else f"{count // 10**9}"
