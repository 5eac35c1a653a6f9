"""Engines that can't run here, seen by a user of `patch-compile run`: real engines of TensorRT-RTX for sm120.

Only the driver's answer, which GPU there is, is made up.
"""

import ctypes
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from patch_compile.engine import backend as backends
from patch_compile.engine.backend import load_backend
from patch_compile.engine.build import build_engine
from patch_compile.engine.expectation import expectation_from_onnx
from patch_compile.engine.network import BuildJob, Cancellation, write_engine
from patch_compile.engine.options import EngineOptions
from patch_compile.engine.profiles import profiles_from_onnx
from patch_compile.hardware.cards import parse_architectures
from patch_compile.hardware.gpu import Gpu, local_gpu
from patch_compile.packing.function import VERSION
from patch_compile.plugin.build import build_plugin
from patch_compile.plugin.identity import read_identity
from patch_compile.plugin.prebuilt import LIBRARY_NAME
from patch_compile.runtime import engine_fit
from patch_compile.runtime.engine_fit import HostCode, engine_facts, host_code, why_not
from tests.commands import Done, run_here
from tests.plugin.identities import identity_text
from tests.refusals import refusal, refused
from tests.runtime.conftest import OutOf

pytestmark = pytest.mark.rtx
AMPERE, BLACKWELL = Gpu("NVIDIA RTX A6000", (8, 6)), Gpu("NVIDIA GeForce RTX 5090", (12, 0))
Card = Callable[[Gpu], None]


@pytest.fixture(scope="session")
def engine_out(out_of: OutOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT with an engine for sm120 that embeds the plugin, and an engine without it in `bare`, both built here."""
    out = tmp_path_factory.mktemp("engine") / "out"
    shutil.copytree(out_of("llama"), out)
    rtx, plugin = load_backend("tensorrt-rtx"), build_plugin("tensorrt-rtx").path
    onnx, targets = out / "onnx/model.onnx", parse_architectures("sm120")
    profiles, expected = profiles_from_onnx(onnx), expectation_from_onnx(onnx)
    report = build_engine(
        onnx,
        out / "engine/model.engine",
        backend=rtx,
        targets=targets,
        profiles=profiles,
        plugin=plugin,
        expected=expected,
        options=EngineOptions(embed_plugin=True),
    )
    report.write(out / "engine/engine.json")
    (out / "bare").mkdir()
    with (out / "bare/model.engine").open("wb") as file:
        write_engine(BuildJob(rtx, onnx, targets, profiles, None), file, None, Cancellation())
    return out


@pytest.fixture
def out(engine_out: Path, tmp_path: Path) -> Path:
    return shutil.copytree(engine_out, tmp_path / "out")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of another user, who has built nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """card(gpu) sets the driver's answer."""

    def answer(gpu: Gpu) -> None:
        for module in (engine_fit, backends):
            monkeypatch.setattr(module, "local_gpu", lambda: gpu)

    return answer


def run(*arguments: object) -> Done:
    """Run `patch-compile run` with a prompt of three tokens."""
    return run_here("run", *arguments, "the cat sat", "--new-tokens", "3")


def refused_run(*arguments: object, varies: str | None = None) -> None:
    """`patch-compile run` must be refused, without text."""
    done = run(*arguments)
    refusal(done, varies)
    assert done.stdout == ""


def described(out: Path, **changed: object) -> None:
    """Change the build's record of its engine."""
    path = out / "engine/engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def of_version(plugin: Path, version: int, copy: Path) -> Path:
    """The real plugin with another version number."""
    content = plugin.read_bytes()
    identity = b"patch-linear-plugin version=%d "
    assert content.count(identity % VERSION) == 1
    copy.write_bytes(content.replace(identity % VERSION, identity % version))
    assert read_identity(copy).version == version
    return copy


def test_an_engine_for_another_gpu(out: Path, card: Card) -> None:
    """The ONNX file runs instead, with a note; `--runner engine` makes it an error."""
    card(AMPERE)
    why = "it was built for sm120, and this GPU (NVIDIA RTX A6000) is sm86"
    done = run(out)
    assert done.returncode == 0 and done.stdout.strip() and f"not its engine: {why}" in done.stderr
    refused_run(out, "--runner", "engine")
    # An engine without its build's record names its GPU itself.
    refused_run(out / "bare/model.engine", "--tokenizer", out / "model")


def test_an_engine_of_another_version(out: Path, card: Card) -> None:
    card(BLACKWELL)
    described(out, version="1.2.3.4")
    refused_run(out, "--runner", "engine")
    assert "not its engine: it was built by tensorrt-rtx 1.2.3.4" in run(out).stderr


def test_what_an_engine_was_built_to_run_on(engine_out: Path, card: Card) -> None:
    """It may run on later versions of its major, and on any GPU from Ampere on, when it was built for that."""
    facts = engine_facts(engine_out / "engine/model.engine")
    assert (facts.targets, facts.needs_plugin, facts.plugin_version) == (("sm120",), True, VERSION)
    card(BLACKWELL)
    assert why_not(facts) is None
    major, minor, *_ = map(int, load_backend("tensorrt-rtx").version.split("."))
    earlier, before = f"{major}.{minor - 1}.9", f"{major - 1}.99"
    assert why_not(dataclasses.replace(facts, version=earlier)) is not None
    assert why_not(dataclasses.replace(facts, version=earlier, version_compatible=True)) is None
    for other in (before, f"{major}.{minor + 1}"):
        assert why_not(dataclasses.replace(facts, version=other, version_compatible=True)) is not None
    portable = dataclasses.replace(facts, hardware_compatible=True)
    card(AMPERE)
    assert why_not(portable) is None
    card(Gpu("NVIDIA T4", (7, 5)))
    assert "this GPU (NVIDIA T4) is sm75" in str(why_not(portable))


def test_a_plugin_that_is_missing(out: Path, card: Card, elsewhere: Path) -> None:
    card(BLACKWELL)
    refused_run(out / "bare/model.engine", "--tokenizer", out / "model")
    refused_run(out / "bare/model.engine", "--tokenizer", out / "model", "--plugin", out / "gone.so")
    # The build's record knows the version that the engine has lost.
    shutil.copy(out / "bare/model.engine", out / "engine/model.engine")
    (out / "engine" / LIBRARY_NAME).unlink()
    assert f"needs the PatchLinear plugin, version {VERSION}, and there is none" in run(out).stderr


def test_a_plugin_of_another_version(out: Path, card: Card, elsewhere: Path) -> None:
    """The error names both numbers, for a named plugin and for a plugin next to an engine that does not embed it."""
    card(BLACKWELL)
    beside = out / "engine" / LIBRARY_NAME
    other = of_version(beside, VERSION + 1, out / "other.so")
    refused_run(out, "--plugin", other)
    shutil.copy(out / "bare/model.engine", out / "engine/model.engine")
    shutil.copy(other, beside)
    refused_run(out, "--trust")


def test_a_named_plugin_that_lacks_the_kernels(out: Path, tmp_path: Path) -> None:
    carrying, bare = (engine_facts(out / name / "model.engine") for name in ("engine", "bare"))
    assert carrying.kernels == ("half",) and bare.kernels == ()  # without a record they are unknown
    other = tmp_path / "other.so"
    other.write_bytes(identity_text(kernels="bfloat16+int8_half"))
    assert host_code(bare, other) == HostCode(other)
    with refused():
        host_code(dataclasses.replace(bare, kernels=carrying.kernels), other)


def test_a_plugin_beside_the_one_that_is_carried(out: Path, card: Card) -> None:
    card(BLACKWELL)
    refused_run(out, "--plugin", out / "engine" / LIBRARY_NAME)


def test_code_that_was_built_here_runs(out: Path) -> None:
    """An engine without a plugin gets the library of this user's cache, not the file in its folder."""
    carrying, bare = (engine_facts(out / name / "model.engine") for name in ("engine", "bare"))
    assert host_code(carrying) == HostCode(None, carried=True)
    assert host_code(dataclasses.replace(bare, needs_plugin=False)) == HostCode()
    ours = build_plugin("tensorrt-rtx").path
    assert host_code(bare, ours) == HostCode(ours)
    assert host_code(bare) == HostCode(ours)
    shutil.copy(ours, out / "bare")
    assert host_code(bare) == HostCode(ours)


def test_code_of_a_stranger_does_not_run(out: Path, elsewhere: Path, card: Card) -> None:
    """Neither the library in an engine's folder nor the library inside the engine is touched until the user trusts them."""
    card(BLACKWELL)
    carrying, bare = (engine_facts(out / name / "model.engine") for name in ("engine", "bare"))
    with refused():
        host_code(carrying)
    beside = Path(shutil.copy(out / "engine" / LIBRARY_NAME, out / "bare"))
    with refused():
        host_code(bare)
    assert host_code(carrying, trust=True) == HostCode(None, carried=True)
    assert host_code(bare, trust=True) == HostCode(beside)
    refused_run(out, "--runner", "engine")


def test_a_changed_engine_or_library_is_a_strangers(out: Path) -> None:
    """One changed byte makes it another file; the library that was compiled here is used instead of a changed library."""
    engine = out / "engine/model.engine"
    with engine.open("ab") as file:
        file.write(b"\0")
    with refused():
        host_code(engine_facts(engine))
    beside = Path(shutil.copy(out / "engine" / LIBRARY_NAME, out / "bare"))
    with beside.open("ab") as file:
        file.write(b"\0")
    assert host_code(engine_facts(out / "bare/model.engine")) == HostCode(build_plugin("tensorrt-rtx").path)


def test_a_strangers_constructor_does_not_run(out: Path, elsewhere: Path, card: Card, tmp_path: Path) -> None:
    """A library with a constructor is in the engine's folder: `run`, `verify`, `bench` and `inspect` do not load it."""
    card(BLACKWELL)
    marker, source = tmp_path / "ran", tmp_path / "evil.c"
    identity = re.search(rb"patch-linear-plugin version=[^\0]+", (out / "engine" / LIBRARY_NAME).read_bytes())
    source.write_text(
        f'#include <stdio.h>\nconst char id[] __attribute__((used)) = "{identity[0].decode()}";\n'
        f'__attribute__((constructor)) void go(void) {{ fclose(fopen("{marker}", "w")); }}\n'
    )
    shutil.copy(out / "bare/model.engine", out / "engine/model.engine")
    described(out, plugin_embedded=False)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", out / "engine" / LIBRARY_NAME, source], check=True)
    refused_run(out, "--runner", "engine")
    for command in (("inspect", out / "engine/model.engine"), ("inspect", out), ("bench", out)):
        run_here(*command)
    run_here("verify", out, "--only", "built")
    assert not marker.exists()
    ctypes.CDLL(str(out / "engine" / LIBRARY_NAME))
    assert marker.exists(), "the library does what this test is about"


def test_another_engines_notes_are_ignored(out: Path) -> None:
    """engine.json describes one engine, not a second one in the folder."""
    second = Path(shutil.copy(out / "bare/model.engine", out / "engine/second.engine"))
    described(out, targets=["sm86"])
    assert engine_facts(second).targets == ("sm120",)
    (out / "engine/engine.json").write_text("{")
    with refused():
        engine_facts(out / "engine/model.engine")


@pytest.mark.skipif(local_gpu() is not None, reason="here TensorRT-RTX may load it")
def test_what_tensorrt_says_is_passed_on(out: Path, card: Card) -> None:
    """The engine's record fits, but TensorRT-RTX refuses because there is no driver."""
    card(BLACKWELL)
    for path in (
        (out,),
        (out / "bare/model.engine", "--tokenizer", out / "model", "--plugin", out / "engine" / LIBRARY_NAME),
    ):
        refused_run(*path)
