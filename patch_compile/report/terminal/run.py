"""Prints continuations of prompts."""

from __future__ import annotations

from collections.abc import Iterator

from patch_compile.report.terminal.parts import Part
from patch_compile.runtime.run import Continuations

__all__ = ["generated_parts", "times_line"]


def generated_parts(generated: Continuations) -> Iterator[Part]:
    """Yield each text under its prompt, and the times."""
    for prompt, one in zip(generated.prompts, generated.completions, strict=True):
        yield from f"{prompt}\n→ {one.text}\n".split("\n")
    yield times_line(generated)


def times_line(generated: Continuations) -> str:
    """Returns the time to the first token, and the time of a step between tokens, in words."""
    tokens = sum(len(one.tokens) for one in generated.completions)
    first = f"{tokens} tokens in {generated.all:.2f} s, the first after {generated.first_token * 1e3:.0f} ms"
    step = generated.ms_per_step
    return first if step is None else f"{first}, then {step:.1f} ms a step"
