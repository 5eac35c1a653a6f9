"""Random attributes, shapes and indices against the plugin."""

from __future__ import annotations

from tests.attacks.attack import Attack
from tests.attacks.fuzz.mosaic import CACHE
from tests.plugins.sanitized import attack_plugin, compile_plugin_attack

_CHUNK = 10_000  # cases of one process


def run(small: bool) -> list[Attack]:
    """Attack the plugin's host code under AddressSanitizer and UBSan."""
    cases = _CHUNK if small else 600_000
    CACHE.mkdir(parents=True, exist_ok=True)
    program = compile_plugin_attack(CACHE)
    seeds = range(0, cases, _CHUNK)
    broken = [f"seed {seed}: {fault}" for seed in seeds if (fault := attack_plugin(program, seed, _CHUNK)[1])]
    return [
        Attack.of("random attributes, indices, shapes and types of a plugin, under sanitizers", cases, broken)
    ]
