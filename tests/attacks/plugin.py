"""Random attributes, shapes and indices against the plugin's host code, under AddressSanitizer and UBSan."""

from __future__ import annotations

from tests.attacks.attack import BUILD, Attack
from tests.plugins.sanitized import attack_plugin, compile_plugin_attack

_CASES, _CHUNK = 600_000, 10_000  # cases in all, and of one process


def attack() -> list[Attack]:
    """Attack the plugin with cases of many seeds."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = compile_plugin_attack(BUILD)
    faults = ((seed, attack_plugin(program, seed, _CHUNK)[1]) for seed in range(0, _CASES, _CHUNK))
    broken = tuple(f"seed {seed}: {fault}" for seed, fault in faults if fault)
    return [
        Attack("random attributes, indices, shapes and types of a plugin, under sanitizers", _CASES, broken)
    ]
