"""Write docs/cli.md, the reference of the command line, from the commands themselves (`make docs`)."""

from pathlib import Path

import click

from patch_compile.cli.app import cli

PAGE = Path(__file__).parent / "cli.md"


def reference() -> str:
    """The page: the help text of the group and of each command."""
    parts = ["# Command line", "Written by `make docs` from `--help`."]
    for name, command in [("", cli), *sorted(cli.commands.items())]:
        title = f"patch-compile {name}".strip()
        context = click.Context(command, info_name=title, max_content_width=100, terminal_width=100)
        parts.append(f"## {title}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference())
