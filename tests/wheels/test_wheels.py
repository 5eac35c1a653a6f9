"""The wheels of `make wheels`, installed into a new environment, build an engine where there is no compiler."""

import json
import os
import subprocess
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.plugin.identity import read_identity
from patch_compile.plugin.prebuilt import DISTRIBUTION, LIBRARY_NAME, PACKAGE
from patch_compile.plugin.targets import this_machine
from tests.builds import TINY
from tests.conftest import texts_in, write_model

pytestmark = pytest.mark.wheels
ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
RTX = "tensorrt-rtx"


def wheel(prefix: str, machine: str = "any") -> Path:
    found = sorted((ROOT / "dist").glob(f"{prefix}-{VERSION}-*{machine}.whl"))
    assert len(found) == 1, f"dist has {found} of {prefix}: run `make wheels`"
    return found[0]


def metadata(path: Path) -> dict[str, list[str]]:
    """Returns the headers of METADATA and WHEEL."""
    archive = zipfile.ZipFile(path)
    texts = [archive.read(n).decode() for n in archive.namelist() if n.endswith(("/METADATA", "/WHEEL"))]
    headers = [item for text in texts for item in Parser().parsestr(text).items()]
    return {name: [value for key, value in headers if key == name] for name, _ in headers}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Python of a new environment with both wheels. It finds the packages that they depend on here, but no checkout."""
    home = tmp_path_factory.mktemp("environment")
    compiled = wheel(PACKAGE, this_machine())
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", wheel("patch_compile"), compiled]
    subprocess.run([*map(str, install)], check=True)
    site = Path(subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip())  # fmt: skip
    # A folder that a .pth file names is searched after the environment's own, and .pth files in it are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield python


def run(python: Path, home: Path, *command: str) -> str:
    """Run patch-compile of the environment where there is no compiler and no cache."""
    alone = os.environ | {"CUDACXX": str(home / "no-nvcc"), "XDG_CACHE_HOME": str(home / "cache")}
    alone.pop("PYTHONPATH", None)
    alone["PATCH_COMPILE_PLUGIN_ARCHS"] = ",".join(map(str, _archs(python)))
    done = subprocess.run(
        [str(python), "-m", "patch_compile", *command], cwd=home, env=alone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def library(python: Path) -> Path:
    (found,) = python.parents[1].glob(f"lib/python*/site-packages/{PACKAGE}/{RTX}/{LIBRARY_NAME}")
    return found


def _archs(python: Path) -> tuple[int, ...]:
    return read_identity(library(python)).archs


def test_the_two_belong_together(tmp_path: Path) -> None:
    """The main wheel has the sha256 of each library, and its extra asks for this version of the plugin's wheel."""
    main, plugin = zipfile.ZipFile(wheel("patch_compile")), zipfile.ZipFile(wheel(PACKAGE, this_machine()))
    ((machine, pinned),) = json.loads(main.read("patch_compile/plugin/payloads.json")).items()
    assert machine == this_machine()
    libraries = {name.split("/")[1]: name for name in plugin.namelist() if name.endswith(LIBRARY_NAME)}
    assert pinned and pinned.keys() == libraries.keys()
    plugin.extractall(tmp_path)
    assert {backend: sha256_of(tmp_path / name) for backend, name in libraries.items()} == pinned
    assert {read_identity(tmp_path / name).machine for name in libraries.values()} == {machine}
    wanted = [
        one for one in metadata(wheel("patch_compile"))["Requires-Dist"] if one.startswith(DISTRIBUTION)
    ]
    extras = {RTX: "rtx", "tensorrt": "tensorrt"}
    for backend in pinned:
        said = (f"=={VERSION}", f"extra == '{extras[backend]}'", f"'{machine}'")
        assert any(all(word in one for word in said) for one in wanted)


def test_the_library_fits_the_platform_of_its_tag() -> None:
    """auditwheel reads the symbols that the library needs; the tag is manylinux's."""
    about = metadata(wheel(PACKAGE, this_machine()))
    (tag,) = {tag.rpartition("-")[2] for tag in about["Tag"]}
    assert tag.startswith("manylinux_2_") and tag.endswith(f"_{this_machine()}")
    assert about["Root-Is-Purelib"] == ["false"]


def test_an_engine_is_built_without_a_compiler(python: Path, tmp_path: Path) -> None:
    model = write_model(
        tmp_path / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=1
    )
    texts = texts_in(tmp_path)
    small = {
        "--" + name.replace("_", "-"): str(TINY[name])
        for name in ("windows", "length", "eval_windows", "eval_length")
    }
    shapes = ["--tile", "64x64", "--method", "wanda", "--lowering", "plugin"]
    options = [
        *shapes,
        *(word for pair in small.items() for word in pair),
        "--calib",
        texts["calib"],
        "--eval",
        texts["eval_text"],
    ]
    target = ["--backend", RTX, "--target", f"sm{min(_archs(python))}"]
    told = run(
        python, tmp_path, "build", str(model), "-o", "out", "--ratio", "0.4", *options, *target, "--json"
    )
    report = json.loads(told)
    assert any(DISTRIBUTION in note for note in report["notes"])
    assert (
        report["engine"]["plugin_sha256"] == sha256_of(library(python))
        and report["engine"]["patch_linears"] > 0
    )
    assert not list((tmp_path / "cache").rglob(LIBRARY_NAME))


def test_a_changed_library_is_not_run(python: Path, tmp_path: Path) -> None:
    """`doctor` says why, and the plugin would be compiled. The other backend's library stays known."""
    found = library(python)
    backends = list(found.parents[1].glob(f"*/{LIBRARY_NAME}"))
    content = found.read_bytes()
    try:
        found.write_bytes(content + b"\0")
        told = json.loads(run(python, tmp_path, "doctor", "--json"))
    finally:
        found.write_bytes(content)
    about = {one["what"]: one for one in told["findings"]}["compiled plugin"]
    assert about["found"] == (len(backends) > 1) and "its sha256 is another one" in about["about"]
