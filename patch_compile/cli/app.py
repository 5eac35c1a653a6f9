"""The command line: the group of all commands, errors as text, and exit codes.

Heavy packages are not imported here: `patch-compile --help` works without torch, transformers, onnx or tensorrt.
"""

from __future__ import annotations

import sys

import click

from masklearn.threads import settle_threads
from patch_compile.cli.bench import bench
from patch_compile.cli.build import build
from patch_compile.cli.compare import compare
from patch_compile.cli.compile import compile
from patch_compile.cli.doctor import doctor
from patch_compile.cli.import_mask import import_mask
from patch_compile.cli.inspect import inspect
from patch_compile.cli.learn import learn
from patch_compile.cli.plan import plan
from patch_compile.cli.plugin import plugin
from patch_compile.cli.run import run
from patch_compile.cli.verify import verify
from patch_compile.errors import PatchCompileError, UsageError

__all__ = ["cli", "main"]

INTERRUPTED = 130
_COMMANDS = (
    bench,
    build,
    compare,
    compile,
    doctor,
    import_mask,
    inspect,
    learn,
    plan,
    plugin,
    run,
    verify,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PATCH_COMPILE"})
@click.version_option(package_name="patch-compile")
def cli() -> None:
    """Compile a Hugging Face model into a TensorRT engine of dense and 2:4-sparse tiles (PATCH).

    Every option can also be set in the environment, as PATCH_COMPILE_<COMMAND>_<OPTION>.
    """


for _command in _COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line. Exit codes: 0 ok, 1 user or machine, 2 usage, 3 accuracy, 4 ratio or speed, 130
    interrupted."""
    settle_threads()
    try:
        code = cli.main(standalone_mode=False)
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
    sys.exit(code or 0)


def _of_click(error: click.UsageError) -> UsageError:
    """Convert an error of click: an unknown option or command, a missing value, or a value of the wrong type."""
    path = error.ctx.command_path if error.ctx else "patch-compile"
    what, why = f"{path} can't be run as it is written", error.format_message()
    if isinstance(error, click.MissingParameter) and error.param:
        what, why = f"{error.param.get_error_hint(error.ctx)} is missing", f"{path} needs it."
    elif isinstance(error, click.BadParameter) and error.param:
        what, why = f"The value of {error.param.get_error_hint(error.ctx)} is not valid", error.message
    return UsageError(what, why, f"See `{path} --help`.")


def _complain(error: PatchCompileError) -> int:
    click.echo(click.style("error: ", fg="red", bold=True) + error.what, err=True)
    for label, text in (("why", error.why), ("fix", error.fix)):
        if text:
            click.echo(f"  {label}: {text}", err=True)
    return error.exit_code
