"""GPU architectures an engine can be built for, and the cards that carry them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import local_gpu

__all__ = ["GPU_NAMES", "TARGETS", "Target", "local_target", "parse_targets"]


@dataclass(frozen=True)
class Target:
    """One GPU architecture: `name` is `sm86` for compute capability (8, 6)."""

    name: str
    compute_capability: tuple[int, int]


TARGETS = {
    name: Target(name, capability)
    for name, capability in {
        "sm80": (8, 0),
        "sm86": (8, 6),
        "sm89": (8, 9),
        "sm90": (9, 0),
        "sm120": (12, 0),
    }.items()
}

# NVIDIA, "CUDA GPU compute capability" (developer.nvidia.com/cuda-gpus).
_CARDS = {
    "sm80": "a100 a30 a800",
    "sm86": "a6000 a5500 a5000 a4500 a4000 a2000 a40 a16 a10 a10g a2 "
    "3050 3060 3060ti 3070 3070ti 3080 3080ti 3090 3090ti",
    "sm89": "l4 l40 l40s 6000ada 5000ada 4500ada 4000ada 2000ada "
    "4050 4060 4060ti 4070 4070ti 4080 4090 4070super 4080super",
    "sm90": "h100 h200 h800 gh200",
    "sm120": "5050 5060 5060ti 5070 5070ti 5080 5090 pro6000 pro5000 pro4500 pro4000",
}
GPU_NAMES = {card: TARGETS[name] for name, cards in _CARDS.items() for card in cards.split()}

_BRANDS = re.compile(r"^(?:nvidia|geforce|tesla|quadro|rtx)+")
_ARCHITECTURE = re.compile(r"^(?:sm|compute)?(\d{2,3})$")


def parse_targets(text: str) -> tuple[Target, ...]:
    """Targets of a comma-separated list of architectures (`sm86`, `8.6`) or cards (`a6000`, `RTX 4090`).

    Each target once, in the order given. Raises PatchCompileError listing what is known.
    """
    names = [name for name in text.split(",") if name.strip()]
    if not names:
        raise PatchCompileError("no target given", f"{text!r} is empty", f"known: {_known()}")
    return tuple(dict.fromkeys(_target(name) for name in names))


def local_target() -> Target | None:
    """The target of this machine's GPU; None without a GPU or with one that is not in the table."""
    gpu = local_gpu()
    if gpu is None:
        return None
    return next((t for t in TARGETS.values() if t.compute_capability == gpu.compute_capability), None)


def _target(name: str) -> Target:
    plain = re.sub(r"[\s_.-]", "", name.lower())
    architecture = _ARCHITECTURE.match(plain)
    if architecture and f"sm{architecture[1]}" in TARGETS:
        return TARGETS[f"sm{architecture[1]}"]
    card = _BRANDS.sub("", plain)
    if card not in GPU_NAMES:
        raise PatchCompileError(f"unknown target {name.strip()!r}", f"known: {_known()}")
    return GPU_NAMES[card]


def _known() -> str:
    return "; ".join(f"{name} ({', '.join(cards.split())})" for name, cards in _CARDS.items())
