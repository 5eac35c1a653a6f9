"""The command line: the group of all commands, errors as text, and exit codes.

Heavy packages are not imported here: `patch-compile --help` works without torch, transformers, onnx or tensorrt.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import traceback
import warnings
from dataclasses import dataclass

import click

from masklearn.base.printable import one_line, printable
from masklearn.base.threads import settle_threads
from patch_compile.cli.command import with_flags
from patch_compile.cli.commands import COMMANDS
from patch_compile.cli.gone import GONE
from patch_compile.cli.output import open_closed_streams, writing_output
from patch_compile.debug import STAGES, debug_level, tell_seconds
from patch_compile.errors import SPELLING, PatchCompileError, UsageError
from patch_compile.python_process import forbid_current_folder

_format_warning = warnings.formatwarning
INTERRUPTED = 130
INTERNAL = 70  # EX_SOFTWARE of sysexits.h


@dataclass
class _Session:
    """Options of the group, for `main`. debug: print tracebacks."""

    debug: bool = False


class _Commands(click.Group):
    """Commands, whose names may have two words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with writing_output():
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit  # the reader of the help text has left

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the name and the command that arguments begin with, and the other arguments."""
        words = " ".join(args[:2])
        if words in self.commands:
            return words, self.commands[words], args[2:]
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="patch-compile")
@click.option("--debug", is_flag=True, help="Print the traceback of an internal error.")
@click.pass_obj
def cli(session: _Session | None, debug: bool) -> None:
    """Compile a Hugging Face model into a TensorRT engine of dense and 2:4-sparse tiles (PATCH).

    Every option can also be set in the environment, as PATCH_COMPILE_<COMMAND>_<OPTION>: PATCH_COMPILE_BUILD_EVAL stands
    for build --eval. An option that may be repeated takes several values, separated by spaces; texts take one line each.
    """
    level = debug_level()
    if session is not None:
        session.debug = debug or level >= STAGES


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line. Exit codes: 0 ok, 1 user or machine, 2 usage, 3 accuracy, 4 speed, 5 not checked,
    70 internal error, 130 interrupted."""
    open_closed_streams()
    forbid_current_folder()
    settle_threads()
    _format_logs()
    session = _Session()
    SPELLING.set(_by_flags)
    try:
        with tell_seconds(shlex.join(["patch-compile", *sys.argv[1:]])):
            code = cli.main(standalone_mode=False, obj=session)
    except PatchCompileError as error:
        code = _complain(error)
    except click.exceptions.NoArgsIsHelpError as error:  # without a command the help text is shown
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        code = _complain(_of_click(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        code = INTERRUPTED
    except OSError as error:
        code = _complain(_of_system(error))
    except MemoryError:
        code = _complain(
            PatchCompileError("There is not enough memory", "", "Use a smaller model, batch or window.")
        )
    except ModuleNotFoundError as error:
        ours = (error.name or "patch_compile").partition(".")[0] in ("patch_compile", "masklearn")
        code = _admit(error, session.debug) if ours else _complain(_of_package(error))
    except Exception as error:
        code = _admit(error, session.debug)
    sys.exit(code or 0)


def _of_system(error: OSError) -> PatchCompileError:
    """Convert an error of the operating system that no command expects, such as a full disk."""
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    check = "Raise the limit on the size of a file (`ulimit -f`), or choose a file system that takes larger files."
    if error.errno != errno.EFBIG:
        check = "Check the disk and the permissions."
    return PatchCompileError(
        f"The operating system refuses {files or 'a file operation'}",
        f"{error.strerror or error}.",
        f"{check} `build`, `learn` and `compile` continue with `--resume`.",
    )


def _of_package(error: ModuleNotFoundError) -> PatchCompileError:
    """Convert the error of an import that fails because the installation is not complete."""
    return PatchCompileError(
        f"The package {str(error.name).partition('.')[0]} is not installed",
        "patch-compile needs it, and was installed without its dependencies.",
        f"Install them: `{shlex.quote(sys.executable)} -m pip install patch-compile`.",
    )


def _admit(error: Exception, debug: bool) -> int:
    """Report an error that no command expects, which is a fault of this program."""
    if debug:
        click.echo(printable("".join(traceback.format_exception(error))), err=True, nl=False)
    again = shlex.join(["patch-compile", "--debug", *(word for word in sys.argv[1:] if word != "--debug")])
    _complain(
        PatchCompileError(
            f"Internal error: {type(error).__name__}: {str(error).rstrip('.') or 'no message'}",
            "This is a fault of patch-compile and not of your command. Finished stages are kept.",
            f"Report it with the output of `{again}`.",
        )
    )
    return INTERNAL


def _of_click(error: click.UsageError) -> UsageError:
    """Convert an error of click: an unknown option or command, a missing value, or a value of the wrong type."""
    path = error.ctx.command_path if error.ctx else "patch-compile"
    what, why = f"{path} can't be run as it is written", error.format_message()
    if isinstance(error, click.MissingParameter) and error.param:
        what, why = f"{error.param.get_error_hint(error.ctx)} is missing", f"{path} needs it."
    elif isinstance(error, click.BadParameter) and error.param:
        what, why = f"The value of {error.param.get_error_hint(error.ctx)} is not valid", error.message
    elif isinstance(error, click.NoSuchOption) and error.ctx:
        option = error.option_name
        if now := GONE.get(f"{error.ctx.info_name} {option}", GONE.get(option)):
            what, why = f"{path} no longer has {option}", now
    return UsageError(what, why, f"See `{path} --help`.")


def _complain(error: PatchCompileError) -> int:
    what = one_line(_by_flags(error.what))
    click.echo(click.style("error: ", fg="red", bold=True) + what, err=True)
    for label, text in (("why", error.why), ("fix", error.fix)):
        if text:
            click.echo(f"  {label}: {_indented(_by_flags(text))}", err=True)
    for line in getattr(error, "__notes__", ()):
        click.echo(f"  {_indented(_by_flags(line))}", err=True)
    return error.exit_code


def _by_flags(text: str) -> str:
    """Returns a text in which settings that masklearn names are named as options."""
    options = (
        option for command in COMMANDS for option in command.params if isinstance(option, click.Option)
    )
    return with_flags(text, {str(option.name) for option in options})


def _indented(text: str) -> str:
    """Returns printable text with its further lines indented, so that a compiler's output cannot look like our lines."""
    return printable(text).replace("\n", "\n    ")


class _PrintableRecord(logging.LogRecord):
    """A log record without terminal escapes. All loggers make it, also loggers of libraries with their own handlers."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


class _PrintableFormatter(logging.Formatter):
    """Formats records of libraries, which quote what they read."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _format_logs() -> None:
    """Let no log line or warning reach the terminal with characters that it would obey.

    transformers has its own handler, and its warnings quote a model's configuration.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if logging.lastResort is not None:  # the handler of loggers without a handler
        logging.lastResort.setFormatter(_PrintableFormatter())
    logging.setLogRecordFactory(_PrintableRecord)
    warnings.formatwarning = lambda *given, **more: printable(_format_warning(*given, **more))
