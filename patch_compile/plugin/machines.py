"""The kinds of machines that load a plugin, as `uname -m` names them."""

import os

__all__ = ["AARCH64", "MACHINES", "X86", "this_machine"]

X86, AARCH64 = "x86_64", "aarch64"
MACHINES = (X86, AARCH64)


def this_machine() -> str:
    """Returns the kind of this machine."""
    return os.uname().machine
