"""What `run` prints: texts on stdout, times on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["print_generated"]


def print_generated(generated: dict[str, Any], *, as_json: bool) -> None:
    """The end of a single text, which has been printed as it came; of several, each under its prompt."""
    if as_json:
        print(json.dumps(generated, indent=1, ensure_ascii=False))
        return
    completions = generated["completions"]
    if len(completions) == 1:
        print()
    else:
        print("\n\n".join(f"{one['prompt']}\n→ {one['text']}" for one in completions))
    print(_times(generated), file=sys.stderr)


def _times(generated: dict[str, Any]) -> str:
    completions, seconds = generated["completions"], generated["seconds"]
    tokens = sum(len(one["tokens"]) for one in completions)
    first = (
        f"{tokens} tokens in {seconds['all']:.2f} s, the first after {seconds['first_token'] * 1e3:.0f} ms"
    )
    step = generated["ms_per_step"]
    return first if step is None else f"{first}, then {step:.1f} ms a step"
