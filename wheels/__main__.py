"""Makes the wheels of a release, patch-compile and patch-compile-plugin, which belong together.

    python -m wheels dist [--backend tensorrt-rtx] [--backend tensorrt]

patch-compile's wheel differs from one of a checkout in two things: it holds the sha256 of the plugin's libraries, and its
extras `rtx` and `tensorrt` ask for patch-compile-plugin of the same version.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

from patch_compile.out.stage_files import sha256_of
from patch_compile.plugin.build import BACKENDS, build_plugin
from patch_compile.plugin.prebuilt import DISTRIBUTION, PAYLOADS
from wheels.plugin_wheel import ROOT, build_wheel, plugin_wheel

__all__ = ["main"]

_PLATFORM = "platform_system == 'Linux' and platform_machine == 'x86_64'"
_EXTRAS = {"tensorrt-rtx": "rtx", "tensorrt": "tensorrt"}


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


def make_wheels(dist: Path, backends: tuple[str, ...]) -> tuple[Path, Path]:
    """Compile the plugin for these backends, or take it from the cache, and write both wheels into `dist`."""
    built = {backend: build_plugin(backend, prebuilt=False, log=print) for backend in backends}
    libraries = {backend: library.path for backend, library in built.items()}
    digests = {backend: sha256_of(library) for backend, library in libraries.items()}
    (archs,) = {library.archs for library in built.values()}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory() as folder:
        (plugin := Path(folder) / "plugin").mkdir()
        compiled = plugin_wheel(libraries, digests, archs, version, plugin, dist)
        tree = _tree(Path(folder) / "tree", digests, version)
        made = build_wheel(tree, Path(folder) / "made")
        return Path(shutil.copy2(made, dist / made.name)), compiled


def _tree(tree: Path, digests: dict[str, str], version: str) -> Path:
    """Copy the checkout's files, and add what a release has besides. Returns the copy."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    (tree / PAYLOADS.relative_to(ROOT)).write_text(json.dumps(digests, indent=1) + "\n")
    project = (tree / "pyproject.toml").read_text()
    for backend in digests:
        opening = f"\n{_EXTRAS[backend]} = ["
        assert project.count(opening) == 1, f"pyproject.toml has no extra {_EXTRAS[backend]}"
        project = project.replace(opening, f'{opening}"{DISTRIBUTION}=={version}; {_PLATFORM}", ')
    (tree / "pyproject.toml").write_text(project)
    return tree


if __name__ == "__main__":
    main()
