"""Write what follows from the program (`make docs`).

That is docs/reference/cli.md and licences.md, the table of docs/explanation/choosing.md, and patch_compile/__init__.pyi.
"""

import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
from packaging.requirements import Requirement

import patch_compile
from masklearn.masks.kinds.table import KINDS
from masklearn.quant.table import WEIGHT_TYPES
from patch_compile.cli.app import cli
from patch_compile.cli.command import HELP_ALL

PAGE = Path(__file__).parent / "reference/cli.md"
STUB = Path(patch_compile.__file__).with_suffix(".pyi")
LICENCES = Path(__file__).parent / "reference/licences.md"
CHOOSING = Path(__file__).parent / "explanation/choosing.md"
_STUB_HEAD = """# Written by `make docs` from the options of the commands.
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Literal
"""
_LONGEST = 200  # characters; a longer entry is the text of a licence


def reference() -> str:
    """The page: the help text of the group and of each command."""
    parts = ["# Command line", "Written by `make docs` from `--help`."]
    for name, command in [("", cli), *sorted(cli.commands.items())]:
        title = f"patch-compile {name}".strip()
        context = click.Context(command, info_name=title, max_content_width=100, terminal_width=100)
        context.meta[HELP_ALL] = True
        parts.append(f"## {title}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts) + "\n"


def stub() -> str:
    """The types of `patch_compile` for editors and type checkers, which can't see what `takes` does."""
    imports, functions, results = [], [], []
    for name in patch_compile.__all__:
        one = getattr(patch_compile, name)
        if hasattr(one, "options"):
            functions.append(f"def {name}{_spelled(inspect.signature(one))}: ...")
            results += re.findall(r"-> (\w+)", functions[-1])
        else:
            imports.append(f"from {patch_compile._PLACE_OF[name]} import {name} as {name}")
    listed = "".join(f"    {name},\n" for name in sorted({*results}))
    imports.append(f"from patch_compile.api.results import (\n{listed})")
    return "\n".join([_STUB_HEAD, *sorted(imports), "", *functions, ""])


def _spelled(signature: inspect.Signature) -> str:
    lines = [str(one) for one in signature.parameters.values()]
    kinds = [one.kind for one in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        lines.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    inside = "".join(f"\n    {line}," for line in lines) + "\n" * bool(lines)
    text = f"({inside}) -> {inspect.formatannotation(signature.return_annotation)}".replace("'", '"')
    text = re.sub(r"\b(typing|collections\.abc|os|patch_compile\.api\.results)\.", "", text)
    return re.sub(r"Optional\[(Literal\[[^]]+\])\]", r"\1 | None", text)


def licences() -> str:
    """The page: the licence of each package that pyproject.toml names, as its installed files state it.

    A package that is not installed keeps the licence that the page already gives.
    """
    known = dict(re.findall(r"^\| ([\w.-]+) \| [^|]+ \| ([^|]+) \|$", LICENCES.read_text(), re.M))
    rows = [
        f"| {name} | {extra or '(none)'} | {_licence(name) or known.get(name, 'unknown')} |"
        for name, extra in packages()
    ]
    return "\n".join(
        [
            "# Licences of the packages it needs",
            "",
            "patch-compile is under Apache-2.0. It uses the packages below, each under its own licence; those of `dev`",
            "only for work on patch-compile. Written by `make docs` from what the installed packages say.",
            "",
            "| package | extra | licence |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def choosing() -> str:
    """The page with the table of which kinds of tiles go with which weight types at its end."""
    title = "## Which kinds go with which types\n"
    page, rule = CHOOSING.read_text().partition(title)[0] + title, "| --- " * (len(KINDS) + 1) + "|"
    head = f"| | {' | '.join(map(str, KINDS))} |"
    rows = [
        f"| {weights} | {' | '.join('yes' if kind.goes_with(weights) else '' for kind in KINDS)} |"
        for weights in WEIGHT_TYPES.values()
    ]
    return "\n".join([page, head, rule, *rows, ""])


def packages() -> Iterator[tuple[str, str]]:
    """Yields each package that pyproject.toml names, with the first extra that asks for it."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    seen = set()
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for name in sorted(Requirement(line).name for line in lines):
            if name not in seen:
                seen.add(name)
                yield name, extra


def _licence(package: str) -> str:
    """Returns what an installed package says of its licence, "" for one that is not installed or says nothing."""
    try:
        said = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return ""
    named = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier", []) if "License :: " in one]
    stated = said.get("License-Expression") or said.get("License") or ""
    text = stated if 0 < len(stated) <= _LONGEST else ", ".join(named)
    return text.replace("|", "/").replace("\n", " ").strip()


if __name__ == "__main__":
    PAGE.write_text(reference())
    STUB.write_text(stub())
    LICENCES.write_text(licences())
    CHOOSING.write_text(choosing())
