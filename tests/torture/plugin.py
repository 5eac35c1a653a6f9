"""Random attributes and shapes against the plugin, and every lie of an index on every configuration of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.fuzz.mosaic import CACHE, host_kernel
from tests.plugins.configs import CONFIGS, STREAMS, case_for
from tests.plugins.host_kernel import CopyMode, Launch
from tests.plugins.lying_index import LIES, lying
from tests.plugins.sanitized import attack_plugin, compile_plugin_attack
from tests.torture.attack import Attack

_CHUNK = 10_000  # cases of one process


def run(small: bool) -> list[Attack]:
    """Attack the plugin's host code under AddressSanitizer and UBSan, and the kernels as the host runs them."""
    cases = _CHUNK if small else 600_000
    CACHE.mkdir(parents=True, exist_ok=True)
    program = compile_plugin_attack(CACHE)
    seeds = range(0, cases, _CHUNK)
    broken = [f"seed {seed}: {fault}" for seed in seeds if (fault := attack_plugin(program, seed, _CHUNK)[1])]
    lies = list(_lies(LIES[:3] if small else LIES))
    return [
        Attack.of("random attributes, shapes and types of a plugin, under sanitizers", cases, broken),
        Attack.of("an index that lies, on every configuration", len(lies), filter(None, lies)),
    ]


def _lies(kinds: tuple[str, ...]) -> Iterator[str]:
    """Yields the first access outside of a tensor of each run; empty if there is none."""
    kernel = host_kernel()
    assert kernel is not None, "a C++ compiler is needed"
    for number, config in enumerate(CONFIGS):
        case = case_for(kernel, config, kernel.configs()[config].tokens + 3, (300, 260), residual=True)
        for lie in kinds:
            for seed, parts in enumerate((1, 3, 7) if config in STREAMS else (1, 1, 1)):
                launch = Launch(number, seed % 2, parts, CopyMode.MIXED, seed + 1, index_lies=True)
                told = replace(case, packed=lying(case.packed, lie, seed))
                try:
                    kernel.run(told.packed, told.x, told.bias, launch, **told.epilogue)
                except RuntimeError as fault:
                    yield f"{config}, {lie}, seed {seed}: {fault}"
                else:
                    yield ""
