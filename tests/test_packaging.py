"""The wheel that a user installs, and its reference page."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from patch_compile.planning import measured
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama

ROOT = Path(__file__).parents[1]
SHIPPED = measured.shipped_folder()  # before a fixture puts another one in its place


def pip(words, *more):
    subprocess.run([sys.executable, "-m", "pip", *words.split(), *more], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel --quiet --no-deps --no-build-isolation -w", folder, ".")
    return next(folder.glob("*.whl"))


def test_wheels_hold_packages_and_plugin_sources(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"patch_compile/cli/app.py", "masklearn/masks/maskset.py", "patch_compile/py.typed"} <= names
    assert "patch_compile/_plugins/kernels/sass.json" in names
    templates = {f.name for f in (ROOT / "patch_compile" / "report" / "page" / "templates").iterdir()}
    assert {"page.html", "page.css", "page.js"} <= templates
    assert {f"patch_compile/report/page/templates/{name}" for name in templates} <= names
    for folder in ("kernels", "dense_path", "tensorrt"):
        sources = {
            f"patch_compile/_plugins/{folder}/{f.name}"
            for f in (ROOT / "plugins" / folder).iterdir()
            if f.is_file()
        }
        assert {name for name in sources if not name.endswith(".keep")} <= names
    assert not any(name.startswith(("tests/", "samples/")) for name in names)


def test_the_wheel_holds_calibrations_of_the_package(tmp_path):
    """There may be none yet: one is put into a copy of the folder."""
    shipped = SHIPPED.relative_to(ROOT) / "a6000.json"
    for file in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / shipped).parent.mkdir(parents=True)
    (tmp_path / shipped).write_text("{}")
    built = {file.distribution_path for file in WheelBuilder(str(tmp_path)).recurse_selected_project_files()}
    assert shipped.as_posix() in built


def test_the_wheel_holds_its_license(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
    assert archive.read(name) == (ROOT / "LICENSE").read_bytes()
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    headers = archive.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in headers and "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    pip("install --quiet --no-deps --target", folder, wheel)
    return folder


def run_installed(site, cwd, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "patch_compile", *map(str, arguments), "--json"],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_installed_wheel_plans(site, tmp_path):
    """The wheel carries the configurations and instruction counts that a plan needs."""
    model = write_hollow_llama(tmp_path / "model", LLAMA_2_7B | {"num_hidden_layers": 1})
    result = run_installed(site, tmp_path, "plan", model, "--ratio", "0.4", "--target", "a6000")
    assert {row["lowering"] for row in result["linears"]} == {"plugin"}


@pytest.mark.rtx
def test_an_installed_wheel_builds_the_plugin(site, tmp_path):
    result = run_installed(site, tmp_path, "plugin", "--backend", "tensorrt-rtx")
    sources = next(item["found"] for item in result["toolchain"] if item["what"] == "plugin sources")
    assert str(site / "patch_compile" / "_plugins") in sources
    assert Path(result["path"]).is_file()


def test_generated_pages_and_the_stub_are_current():
    code = (
        "import runpy; m = runpy.run_path('docs/generate.py');"
        "print(m['PAGE'].read_text() == m['reference'](), m['STUB'].read_text() == m['stub'](),"
        " m['CHOOSING'].read_text() == m['choosing']())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True True", "run `make docs`"


@pytest.mark.rtx
def test_the_page_of_support_is_current():
    page = runpy.run_path(str(ROOT / "docs" / "support.py"))
    assert page["PAGE"].read_text() == page["support"](), "run `make docs`"


def test_the_page_of_licences_names_each_package():
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    rows = [line.strip("| ").split(" | ") for line in generate["LICENCES"].read_text().splitlines()[7:]]
    assert [(name, extra) for name, extra, _ in rows] == [
        (name, extra or "(none)") for name, extra in generate["packages"]()
    ], "run `make docs`"
    assert len(rows) > 40 and not [name for name, _, licence in rows if licence == "unknown"]


def test_plugins_holds_no_python():
    assert not list((ROOT / "plugins").rglob("*.py"))
