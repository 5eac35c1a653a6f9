"""The errors that a user sees without a traceback."""

__all__ = ["PatchCompileError", "UsageError"]


class PatchCompileError(Exception):
    """A mistake in the input or a lack of the machine: what happened, why, and how to fix it.

    what: one sentence without a final period; why, fix: whole sentences, or the words of another program as they are.
    The command line prints the three parts without a traceback and exits with `exit_code`. The class lives here because
    `masklearn` is the lower package; `patch_compile` raises the same one.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(". ".join(part.rstrip(".") for part in (what, why, fix) if part))


class UsageError(PatchCompileError):
    """A setting that is wrong whatever the files and the machine are: misspelled, out of range, or against another one."""

    exit_code = 2
