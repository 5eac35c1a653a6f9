import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.engine import plugin_library
from patch_compile.engine.build import BuildCancelledError
from patch_compile.engine.check import PlanMismatchError
from patch_compile.engine.expectation import expectation_from_onnx
from patch_compile.engine.options import EngineOptions
from patch_compile.engine.plan_program import PLUGIN, read_programs
from patch_compile.engine.profiles import profiles_from_onnx
from patch_compile.engine.soname import name_only_library
from patch_compile.hardware.cards import parse_architectures
from patch_compile.plugin.trust import engine_made_here
from tests.engine import graphs
from tests.plugin.identities import identity_text
from tests.refusals import refused

pytestmark = pytest.mark.rtx
ROOT = Path(__file__).parents[2]


@pytest.fixture
def chain(tmp_path):
    return graphs.write_chain(tmp_path / "chain.onnx")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "engine" / "model.engine"


@pytest.fixture
def build(build_to, out):
    return lambda onnx_path, **changed: build_to(onnx_path, out, **changed)


def assert_nothing_left(out):
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("targets", ["sm86", "sm86,sm89"])
def test_engine_for_targets_holds_the_plugin_layers(tmp_path, build, out, dtype, targets):
    report = build(graphs.write_chain(tmp_path / "m.onnx", dtype=dtype), targets=parse_architectures(targets))
    (program,) = read_programs(out)
    assert set(program.targets) == set(targets.split(",")) == set(report.targets)
    assert [x.name for x in program.layers if x.kind == PLUGIN] == ["layers.0.proj", "layers.1.proj"]
    assert (report.dtype, report.patch_linears, report.bytes) == (dtype, 2, out.stat().st_size)
    assert report.bytes > report.packed_bytes + graphs.SIZE * graphs.SIZE * 2
    about = (report.file, report.backend, report.profiles, report.sparse_tactics)
    assert about == (out.name, "tensorrt-rtx", ("encoder",), None)


@pytest.mark.parametrize("embedded", [False, True])
def test_plugin_lies_beside_and_is_embedded_on_request(chain, build, out, plugin, embedded):
    report = build(chain, options=EngineOptions(embed_plugin=embedded))
    assert (report.plugin, report.plugin_embedded) == ("libpatch_linear.so", embedded)
    assert (out.parent / report.plugin).read_bytes() == plugin.read_bytes()
    assert (plugin.read_bytes() in out.read_bytes()) is embedded
    assert engine_made_here(out) is embedded
    assert sorted(path.name for path in out.parent.iterdir()) == ["libpatch_linear.so", "model.engine"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_linears_without_one_kind_of_slab_build(tmp_path, build, share):
    onnx_path = graphs.write_chain(tmp_path / "m.onnx", shares=(share,), with_gemm=False)
    report = build(onnx_path)
    bytes_per_slab = 64 * 64 * 2 if share == 0 else 64 * 32 * 2 + 64 * 2 * 4
    assert report.packed_bytes == 4 * bytes_per_slab


def test_external_data(tmp_path, build):
    path = graphs.write_chain(tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").stat().st_size > 0
    assert build(path).patch_linears == 2


def test_decoder_gets_every_linear_in_both_profiles_and_each_constant_once(tmp_path, build, out):
    path = graphs.write_decoder(tmp_path / "decoder.onnx")
    report = build(path)
    assert report.profiles == ("prefill", "decode")
    programs = read_programs(out)
    layers = [x for program in programs for x in program.layers if x.kind == PLUGIN]
    assert sorted((x.name, x.profile) for x in layers) == [("proj", 0), ("proj", 1)]
    constants = [numpy_helper.to_array(constant).tobytes() for constant in onnx.load(path).graph.initializer]
    counts = {len(content): out.read_bytes().count(content) for content in constants if len(content) > 1000}
    assert len(counts) == 3 and set(counts.values()) == {1}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nodes_with_epilogues(tmp_path, build, out, dtype):
    """A gated node's name contains "+", the sign with which TensorRT joins the names of layers that it merges."""
    report = build(graphs.write_mlp(tmp_path / "mlp.onnx", dtype=dtype))
    assert report.patch_linears == 2
    (program,) = read_programs(out)
    plugins = [(x.name, len(x.inputs)) for x in program.layers if x.kind == PLUGIN]
    assert plugins == [("mlp.gate_proj+up_proj", 4), ("mlp.down_proj", 5)]


def test_plugins_take_each_others_place(tmp_path, chain, build, plugin):
    """Two builds of a process may need different kernels, and the third the first ones again."""
    other = tmp_path / "other.so"
    other.write_bytes(plugin.read_bytes() + b"\0")
    for library in (plugin, other, plugin, other):
        report = build(chain, plugin=library)
        assert report.plugin_sha256 == sha256_of(library) and report.kernels == ("half",)


class TestSelfCheck:
    def test_refuses_what_was_not_planned(self, chain, build, out):
        """test_check.py has every way in which an engine may differ."""
        expected = expectation_from_onnx(chain)
        more = expected.patch_linears | {"layers.2.proj": 8}
        with refused(PlanMismatchError):
            build(chain, expected=dataclasses.replace(expected, patch_linears=more))
        assert_nothing_left(out)

    def test_refuses_a_linear_that_became_a_dense_product(self, tmp_path, build, out):
        """Without `plugin_namespace` the parser inlines the function, and the weights become dense."""
        path = graphs.write_chain(tmp_path / "m.onnx", as_plugin=False)
        with refused(PlanMismatchError):
            build(path)
        assert_nothing_left(out)

    def test_refuses_merged_products_of_a_split(self, tmp_path, build, out):
        path = graphs.write_two_gemms(tmp_path / "m.onnx")
        expected = expectation_from_onnx(path)
        assert build(path, expected=expected).patch_linears == 0
        out.unlink()
        split = {"sparse_parts": frozenset({"gemm1"}), "products": frozenset({"gemm0"})}
        with refused(PlanMismatchError):
            build(path, expected=dataclasses.replace(expected, **split))
        assert not out.exists()


class TestProgress:
    def test_reports_phases_in_steps(self, chain, build):
        seen = []
        build(chain, progress=lambda *step: seen.append(step))
        assert seen[:2] == [("Reading ONNX", 0, 1), ("Reading ONNX", 1, 1)]
        assert len({phase for phase, _, _ in seen}) > 3
        assert all(0 <= step <= total for _, step, total in seen)

    @pytest.mark.parametrize("after", [1, 3, 20])
    def test_false_cancels(self, chain, build, out, after):
        seen = []

        def stop(*step):
            seen.append(step)
            return len(seen) < after

        with refused(BuildCancelledError):
            build(chain, progress=stop)
        assert len(seen) == after, "it went on after it was told to stop"
        assert_nothing_left(out)

    def test_its_error_ends_the_build(self, chain, build, out):
        def fail(phase, step, total):
            if phase != "Reading ONNX":
                raise LookupError("the bar broke")

        with pytest.raises(LookupError, match="the bar broke"):
            build(chain, progress=fail)
        assert_nothing_left(out)


def test_the_parser_misses_no_attribute(chain, build, caplog):
    build(chain)
    assert "not found in plugin node" not in caplog.text


# Settings of builds that are refused. other(old, new): the plugin with some of its bytes replaced.
WRONG = {
    "a target that RTX lacks": lambda other: {"targets": parse_architectures("h100")},
    "no target": lambda other: {"targets": ()},
    "no shapes": lambda other: {"profiles": ()},
    "no plugin": lambda other: {"plugin": None},
    "a plugin that is not there": lambda other: {"plugin": Path("none.so")},
    "a plugin of full TensorRT": lambda other: {"plugin": other(b"=tensorrt-rtx ", b"=tensorrt ")},
    "a plugin without these kernels": lambda other: {"plugin": other(b"=all\0", b"=int8_half+bfloat16\0")},
}


class TestFailures:
    def test_earlier_engine_survives(self, chain, build, out):
        build(chain)
        before = out.read_bytes()
        expected = dataclasses.replace(expectation_from_onnx(chain), dtype="bfloat16")
        with refused(PlanMismatchError):
            build(chain, expected=expected)
        assert out.read_bytes() == before
        assert len(list(out.parent.iterdir())) == 2

    def test_node_that_does_not_parse_is_named(self, tmp_path, build, out):
        path = graphs.write_chain(tmp_path / "m.onnx")
        model = onnx.load(path)
        attributes = {attribute.name: attribute for attribute in model.graph.node[1].attribute}
        attributes["in_features"].name = "in_feature"  # the plugin then lacks the attribute
        onnx.save(model, path)
        with refused():
            build(path)
        assert_nothing_left(out)

    def test_not_an_onnx_file(self, tmp_path, chain, build):
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"hello")
        settings = {"profiles": profiles_from_onnx(chain), "expected": expectation_from_onnx(chain)}
        with refused():
            build(bad, **settings)
        with refused():
            build(tmp_path / "none.onnx", **settings)

    @pytest.mark.parametrize("wrong", WRONG)
    def test_what_cannot_be_built_leaves_nothing(self, tmp_path, chain, build, plugin, out, wrong):
        def other(old, new):
            content = plugin.read_bytes()
            assert old in content
            (tmp_path / "other.so").write_bytes(content.replace(old, new))
            return tmp_path / "other.so"

        with refused():
            build(chain, **WRONG[wrong](other))
        assert_nothing_left(out)

    def test_plugin_that_the_process_came_with(self, tmp_path, chain, build, plugin, monkeypatch):
        build(chain)
        other = tmp_path / "other.so"
        other.write_bytes(plugin.read_bytes())
        monkeypatch.setattr(plugin_library, "_loaded", {})  # as if another program had loaded it
        with refused():
            build(chain, plugin=other)

    def test_full_disk(self, chain, build, out, monkeypatch):
        """/dev/full fails every write as a full disk does."""
        from patch_compile.engine import build as stage

        real = stage._write
        monkeypatch.setattr(
            stage, "_write", lambda job, partial, progress: real(job, Path("/dev/full"), progress)
        )
        with refused():
            build(chain)
        assert_nothing_left(out)


SCRIPT = """
    import sys
    from pathlib import Path
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures
    from patch_compile.errors import PatchCompileError

    onnx_path, out, plugin = map(Path, sys.argv[1:4])
    def build(**changed):
        settings = dict(backend="tensorrt-rtx", targets=parse_architectures("sm86"), profiles=profiles_from_onnx(onnx_path),
                        plugin=plugin, expected=expectation_from_onnx(onnx_path))
        return build_engine(onnx_path, out, **(settings | changed))
"""


def fresh_process(body, *arguments, **environment):
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestFreshProcess:
    """The process must end by itself, because an abort of the library can't be caught."""

    def test_plugin_meets_the_parser_without_a_compiler(self, chain, out, plugin):
        process = fresh_process(
            "print(build().patch_linears)", chain, out, plugin, PATH="", LD_LIBRARY_PATH=""
        )
        stdout, stderr = process.communicate(timeout=600)
        assert (process.returncode, stdout) == (0, "2\n"), stderr

    @pytest.mark.parametrize("what", ["text", "library"])
    def test_plugin_that_only_looks_like_one(self, tmp_path, chain, out, what):
        """Both files carry the identity string; one can't be loaded, the other lacks the entry points."""
        library = b"no library" if what == "text" else name_only_library("fake.so", "libc.so.6", 62)
        fake = tmp_path / "fake.so"
        fake.write_bytes(library + identity_text())
        body = """
            try:
                build()
            except PatchCompileError as error:
                print(error)
        """
        process = fresh_process(body, chain, out, fake)
        stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        assert ("can't be loaded" if what == "text" else "is not a TensorRT plugin") in stdout
        assert_nothing_left(out)

    def test_ctrl_c_stops_promptly_and_leaves_nothing(self, chain, out, plugin):
        body = """
            import os, signal, time
            # A job that a script started in the background inherits SIGINT ignored; a person's Ctrl-C is not.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            def slow(phase, step, total):
                if phase != "Reading ONNX":
                    print("building", flush=True)
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.2)
            build(progress=slow)
        """
        process = fresh_process(body, chain, out, plugin)
        stdout, stderr = process.communicate(timeout=600)
        # Steps are counted, not seconds, which depend on the machine. A whole build reports dozens of steps.
        assert 1 <= stdout.count("building") <= 10
        assert stderr.rstrip().endswith("KeyboardInterrupt")
        assert process.returncode in (-signal.SIGINT, 130)
        assert_nothing_left(out)
