"""Links of all pages lead somewhere; commands and snippets run, or are checked word by word if they cannot run here."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from patch_compile.cli.app import cli
from tests.commands import run_here
from tests.pages.page import ROOT, SHELL, Block, anchors, blocks, commands_in_prose, links, pages
from tests.pages.place import build_what_a_page_takes_for_granted, placed

PAGES = {str(path.relative_to(ROOT)): path for path in pages()}
# Pages that the site makes from code; see docs/site_pages.py.
MADE = {"docs/reference/errors.md", "docs/reference/formats.md", "docs/reference/passes.md"}
# Programs of others, which pages call without anything of ours.
OTHERS = (
    "accelerate", "cd", "cmake", "cp", "ctest", "curl", "hf", "ln",
    "edgellm/bin/pip", "edgellm/bin/tensorrt-edgellm-export", "git", "polygraphy", "pre-commit", "tensorrt_rtx", "trtexec",
)  # fmt: skip
OVERWRITING = ("bench", "build", "compile", "import-mask", "learn")
# These run in every `make test`, the others in `make docs-test`.
ALWAYS = ("docs/reference/api.md",)
# A speed that README asks for takes linears that gain. Other pages have smaller models.
SIZES = {"README.md": {"hidden": 2048, "intermediate": 8192, "layers": 1}}
WRITTEN = {
    "CHANGELOG.md", "CODE_OF_CONDUCT.md", *PAGES,
    *(str(path.relative_to(ROOT)) for path in (ROOT / "samples").rglob("*.md")),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        made = target.is_relative_to(ROOT) and str(target.relative_to(ROOT)) in MADE
        assert made or target.exists(), link
        if anchor and not made:
            assert anchor in anchors(target.read_text()), link


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"[\w./-]+\.md\b", text))
    assert {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} <= named


def test_pictures_are_those_that_the_program_draws() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.draw", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_finder_of_blocks() -> None:
    text = "a\n\n    make x  # y\n    z &&  w\n\nb\n\n<!-- run: exit 4 -->\n```sh\np \\\n  q\n```\n\n    no program\n"
    first, second = blocks(text)
    assert first.commands() == [["make", "x"], ["z"], ["w"]] and first.rule == "" and first.line == 3
    assert second.commands() == [["p", "q"]] and second.rule == "exit 4" and second.language == "sh"
    assert list(links("[a](b.md#c) `[d](e)` ![f](g.svg)")) == ["b.md#c", "g.svg"]
    prose = "`patch-compile\nrun OUT …` ```sh\n`patch-compile x`\n``` `patch-compile [--a]`"
    assert list(commands_in_prose(prose)) == ["patch-compile run OUT "]
    assert anchors("# A `b`: c/d\n## n:16 [x](y)") == {"a-b-cd", "n16-x"}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_commands_in_prose_have_these_options(name: str) -> None:
    for text in commands_in_prose(PAGES[name].read_text()):
        check_words(shlex.split(text), f"{name}: {text}")


@pytest.mark.parametrize("name", sorted(PAGES))
def test_words_of_commands_exist(name: str) -> None:
    """Commands, options, targets, extras, modules and files that a page names are there."""
    for block in blocks(PAGES[name].read_text()):
        if block.language in SHELL:
            for words in block.commands():
                check_words(words, f"{name}:{block.line}")
        elif block.language == "json":
            json.loads(block.text)
        elif block.language in ("yaml", "yml"):
            yaml.safe_load(block.text)
        elif block.language == "python":
            compile(block.text, name, "exec")
        else:
            assert block.language == "text", f"{name}:{block.line} is of a language that no test knows"


def runs(block: Block) -> bool:
    """Returns True if the test runs a command or snippet of the block."""
    if block.rule.startswith("needs ") or block.language not in ("python", *SHELL):
        return False
    return block.language == "python" or any(map(is_ours, block.commands()))


def is_ours(words: list[str]) -> bool:
    """Returns True for a call of patch-compile and for `make demo`, which calls it."""
    return words[0] == "patch-compile" or words[:2] == ["make", "demo"]


RUNNING = [name for name in sorted(PAGES) if any(map(runs, blocks(PAGES[name].read_text())))]


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.pages) for name in RUNNING]
)
def test_commands_and_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run in the order of the page, in one folder, as they are written, except the sizes of the models and texts."""
    found = [block for block in blocks(PAGES[name].read_text()) if runs(block)]
    with placed(tmp_path, monkeypatch, **SIZES.get(name, {})) as folder:
        if begins_behind_a_build(found):
            build_what_a_page_takes_for_granted(folder)
        for block in found:
            where = f"{name}:{block.line}"
            if block.language == "python":
                run_snippet(block, where)
                continue
            for words in block.commands():
                for command in expanded(words):
                    run_command(command, block, where)


def begins_behind_a_build(found: list[Block]) -> bool:
    """Returns True if a command reads a build, masks or a pruned model that no earlier command of the page made."""
    made = set[str]()
    for words in (words for block in found if block.language in SHELL for words in block.commands()):
        output = words[words.index("-o") + 1] if "-o" in words else ""
        read = {word.partition("/")[0] for word in words}
        if {"OUT", "masks.safetensors", "PRUNED_DIR"} & read - made - {output}:
            return True
        made.add(output)
    return False


def expanded(words: list[str]) -> list[list[str]]:
    """The calls of patch-compile that a command makes: the command itself, or the calls of `make demo`."""
    if words[0] == "patch-compile":
        return [words]
    if is_ours(words):
        said = subprocess.run(
            ["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        calls = re.findall(r"\.venv/bin/patch-compile (.*)", re.sub(r"\\\n\s*", " ", said))
        return [["patch-compile", *call.split()] for call in calls]
    return []


def run_command(words: list[str], block: Block, where: str) -> None:
    expected = int(block.rule.removeprefix("exit ")) if block.rule.startswith("exit ") else 0
    if words[1] in OVERWRITING and not {"--force", "--resume"} & {*words}:
        words = [*words, "--force"]  # pages write the same OUT more than once
    done = run_here(*words[1:])
    assert done.returncode == expected, f"{where}: {' '.join(words)}\n{done.stderr}\n{done.stdout}"


def run_snippet(block: Block, where: str) -> None:
    code = compile(block.text, where, "exec")
    if block.rule == "process":
        done = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, f"{where}\n{done.stderr}"
    else:
        exec(code, {"__name__": "__page__"})


def check_words(words: list[str], where: str) -> None:
    """Fails if a command of a page names something that is not there."""
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]
    program, *rest = words
    match program:
        case "patch-compile":
            check_options(rest, where)
        case "make":
            targets = [word for word in rest if "=" not in word]
            done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{where}: {done.stderr}"
        case "pip":
            extras = re.findall(r"\[([\w,-]+)\]", " ".join(rest))
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert {extra for found in extras for extra in found.split(",")} <= set(known), where
        case "python" | "python3" | "bash" | "source" | ".":
            check_script(rest, where)
        case name if name in OTHERS:
            pass
        case _:
            raise AssertionError(f"{where}: no test knows the program {program}")


def check_options(rest: list[str], where: str) -> None:
    if not rest or rest[0].startswith("-"):
        return
    command = next((words for words in (" ".join(rest[:2]), rest[0]) if words in cli.commands), None)
    assert command is not None, f"{where}: there is no command {rest[0]}"
    options = {flag for param in cli.commands[command].params if isinstance(param, click.Option)
               for flag in (*param.opts, *param.secondary_opts)} | {"--help"}  # fmt: skip
    used = {word.partition("=")[0] for word in rest[1:] if re.match(r"--?[a-z]", word)}
    assert used <= options, f"{where}: {used - options}"


def check_script(rest: list[str], where: str) -> None:
    """A module or a file is there, and spells the options that a page gives it."""
    if rest[:1] == ["-c"] or rest[:2] == ["-m", "venv"] or "activate" in rest[0]:
        return
    if rest[0] == "-m":
        place = ROOT.joinpath(*rest[1].split("."))
        sources = [one for one in (place.with_suffix(".py"), place / "__main__.py") if one.is_file()]
        rest = rest[1:]
    else:
        sources = [ROOT / rest[0]] if (ROOT / rest[0]).is_file() else []
    assert sources, f"{where}: there is no {rest[0]}"
    text = "".join(source.read_text() for source in sources[0].parent.glob(f"*{sources[0].suffix}"))
    flags = [word.partition("=")[0] for word in rest[1:] if word.startswith("--")]
    assert all(flag in text for flag in flags), f"{where}: {flags}"
