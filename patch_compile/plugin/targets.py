"""Targets of a compiled plugin: this kind of machine, as `uname -m` names it, and architectures of GPUs.

The plugin has all architectures, or only those that an environment variable names.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from patch_compile.errors import UsageError

X86 = "x86_64"
ARCHS = (80, 86, 89, 90, 120)
JETSONS = (87,)
"""Architectures of Jetsons that have sparse tensor cores: Orin. The plugin is compiled for them if a Jetson is a target."""
_SAME_CODE = 89  # newest architecture whose machine code is the same from older PTX
VARIABLE = "PATCH_COMPILE_PLUGIN_ARCHS"
"""Variable that names the architectures to compile for, instead of all: `86` compiles for one GPU in less time."""


def this_machine() -> str:
    return os.uname().machine


def wanted_archs() -> tuple[int, ...]:
    """Returns the architectures that a plugin is compiled for unless the caller names others.

    Raises UsageError if the variable's value is not a list of numbers.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        named = tuple(sorted({int(arch) for arch in text.split(",")})) if text else ARCHS
    except ValueError:
        named = ()
    if not {*named} <= {*ARCHS, *JETSONS} or not named:
        raise UsageError(
            f"{VARIABLE} is {text!r}",
            f"It names architectures of {', '.join(map(str, sorted((*ARCHS, *JETSONS))))}, with commas between them.",
            "Correct it, or unset it.",
        )
    return named


def archs_for(sms: Collection[int]) -> tuple[int, ...]:
    """Returns the architectures to compile a plugin for. GPUs of these compute capabilities, times ten, run it.

    They are the result of `wanted_archs`; unless the user names architectures, Jetsons among the GPUs are added. Raises
    UsageError if PATCH_COMPILE_PLUGIN_ARCHS names architectures that one of the GPUs does not run.
    """
    archs = wanted_archs()
    if not os.environ.get(VARIABLE):
        archs = tuple(sorted({*archs, *({*sms} & {*JETSONS})}))
    for sm in sms:
        if not runs_on(sm, archs):
            raise UsageError(
                f"sm{sm} does not run the plugin that {VARIABLE} asks for",
                f"It is for {', '.join(f'sm{arch}' for arch in archs)}.",
                f"Add {sm} to it, or unset it.",
            )
    return archs


def runs_on(sm: int, archs: tuple[int, ...]) -> bool:
    """Returns True if a GPU runs a plugin of these architectures. sm, archs: compute capabilities times ten.

    A GPU runs machine code of its own major version with the same or a lower minor version, and compiles older PTX (CUDA C++
    programming guide, binary and PTX compatibility). Jetsons (`JETSONS`) run no machine code of other GPUs.
    """
    if ptx_arch(archs) <= sm or sm in archs:
        return True
    return sm not in JETSONS and any(a <= sm < a // 10 * 10 + 10 for a in archs if a not in JETSONS)


def ptx_arch(archs: tuple[int, ...]) -> int:
    """Returns the architecture whose PTX a plugin of these architectures holds: the oldest, which all newer GPUs run."""
    return min(archs)


def virtual_arch(arch: int, archs: tuple[int, ...]) -> int:
    """Returns the architecture whose PTX becomes the machine code for `arch`, in a plugin of `archs`.

    Before sm_90 it is the oldest: nvcc makes the same machine code from its PTX (compared for all kernels of 16-bit
    weights), and then compiles to PTX only once. From sm_90 on kernels wait for earlier launches, which older PTX can't say.
    """
    return min(archs) if arch <= _SAME_CODE else arch
