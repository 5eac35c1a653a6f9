"""The one error a user sees without a traceback."""

__all__ = ["PatchCompileError"]


class PatchCompileError(Exception):
    """A mistake in the input or a lack of the machine: what happened, why, and how to mend it.

    Lives here because `masklearn` is the lower package; `patch_compile` raises the same class.
    The command line prints the three parts without a traceback and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(". ".join(part.rstrip(".") for part in (what, why, fix) if part))
