"""What `run` prints: texts on stdout, times on stderr."""

from __future__ import annotations

import json
import sys

from patch_compile.runtime.run import Continuations

__all__ = ["print_generated"]


def print_generated(generated: Continuations, *, as_json: bool) -> None:
    """The end of a single text, which has been printed as it came; of several, each under its prompt."""
    if as_json:
        print(json.dumps(generated.as_dict(), indent=1, ensure_ascii=False))
        return
    if len(generated.completions) == 1:
        print()
    else:
        pairs = zip(generated.prompts, generated.completions, strict=True)
        print("\n\n".join(f"{prompt}\n→ {one.text}" for prompt, one in pairs))
    print(_times(generated), file=sys.stderr)


def _times(generated: Continuations) -> str:
    tokens = sum(len(one.tokens) for one in generated.completions)
    first = f"{tokens} tokens in {generated.all:.2f} s, the first after {generated.first_token * 1e3:.0f} ms"
    step = generated.ms_per_step
    return first if step is None else f"{first}, then {step:.1f} ms a step"
