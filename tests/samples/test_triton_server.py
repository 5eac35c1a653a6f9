"""The Triton repository, without Triton: its protobuf messages parse config.pbtxt, ONNX Runtime runs the twin."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from onnx import TensorProto, helper
from transformers import AutoModel

from patch_compile.artifacts.engine import BuiltEngine
from patch_compile.artifacts.record import write_json
from samples.packages import Package, fetch
from samples.triton_server.make_repository import config, main, make_repository
from tests.builds import build
from tests.refusals import refused

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "samples" / "triton_server" / "make_repository.py"
# The package has the messages of Triton's model_config.proto; its dependencies pin other versions than ours.
CLIENT = Package(
    "pip",
    "tritonclient",
    "2.73.0",
    "tritonclient-2.73.0-py3-none-any.whl",
    "1f5cec19b0568e037ec4d716ae702984b3ab93e35f72b8f72c5135374dd2be9a",
)


@pytest.fixture(scope="session")
def messages(request):
    """The module of Triton's messages, `model_config_pb2`."""
    cache = request.config.cache.mkdir("tritonclient")
    wheel = cache / CLIENT.file
    if not wheel.is_file():
        fetch(CLIENT, cache)
    source = zipfile.ZipFile(wheel).extract("tritonclient/grpc/model_config_pb2.py", cache)
    spec = importlib.util.spec_from_file_location("model_config_pb2", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(messages, folder):
    """Read a model folder's ModelConfig and check Triton's rules: it has the folder's name, and dims are not empty."""
    parsed = text_format.Parse((folder / "config.pbtxt").read_text(), messages.ModelConfig())
    assert parsed.name == folder.name
    assert all(tensor.dims for tensor in [*parsed.input, *parsed.output])
    return parsed


def described(messages, tensors):
    """Tensors of a config by name: (ONNX Runtime's spelling of the type, dims)."""
    spelled = {"INT64": "tensor(int64)", "FP16": "tensor(float16)", "FP32": "tensor(float)"}
    names = messages.DataType.Name
    return {t.name: (spelled[names(t.data_type).removeprefix("TYPE_")], list(t.dims)) for t in tensors}


def as_runtime_sees(values):
    return {v.name: (v.type, [d if isinstance(d, int) else -1 for d in v.shape]) for v in values}


def small_onnx(folder, dtype=TensorProto.FLOAT, initializer=True):
    """Write an OUT of one Add with a scalar output and an initializer that is also an input."""
    vector = helper.make_tensor_value_info("x", dtype, ["n"])
    listed = [helper.make_tensor_value_info("b", dtype, [1])] if initializer else []
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "b"], ["y"]),
            helper.make_node("ReduceMax", ["y"], ["top"], keepdims=0),
        ],
        "small",
        [vector, *listed],
        [helper.make_tensor_value_info("y", dtype, ["n"]), helper.make_tensor_value_info("top", dtype, [])],
        [helper.make_tensor("b", dtype, [1], [1.0])],
    )
    (folder / "onnx").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "onnx" / "model.onnx")
    return folder


def add_engine(out, **changed):
    """Write the files of an engine stage. The script does not read the engine, which takes a GPU to build."""
    (out / "engine").mkdir()
    (out / "engine" / "model.engine").write_bytes(b"a plan")
    (out / "engine" / "libpatch_linear.so").write_bytes(b"a library")
    fields = {
        "path": str(out / "engine" / "model.engine"), "backend": "tensorrt", "version": "11.4.0",
        "targets": ("sm86",), "profiles": ("prefill", "decode"), "dtype": "float16", "patch_linears": 1,
        "bytes": 6, "packed_bytes": 0, "sparse_parts": 0, "sparse_tactics": None, "seconds": 0.0,
    }  # fmt: skip
    write_json(out / "report.json", {"engine": BuiltEngine(**(fields | changed)).as_json()})


def test_both_models_of_a_build(settings, tmp_path, messages):
    """The ONNX file is a real decoder's, and the twin is loaded and run in the repository."""
    build(settings | {"method": "magnitude"})
    out, repository = settings["out"], tmp_path / "repository"
    add_engine(out)
    data = (out / "onnx" / "model.onnx.data").read_bytes()
    folders, left_out = make_repository(out, repository, "tiny")
    assert [str(f.relative_to(repository)) for f in folders] == ["tiny", "tiny-onnx"] and not left_out
    assert not any(path.is_symlink() for path in repository.rglob("*"))
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()

    session = onnxruntime.InferenceSession(repository / "tiny-onnx" / "1" / "model.onnx" / "model.onnx")
    original = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
    for folder, platform in ((folders[0], "tensorrt_plan"), (folders[1], "onnxruntime_onnx")):
        parsed = read(messages, folder)
        assert (parsed.platform, parsed.max_batch_size) == (platform, 0)
        assert described(messages, parsed.input) == as_runtime_sees(original.get_inputs())
        assert described(messages, parsed.output) == as_runtime_sees(original.get_outputs())
    (group,) = read(messages, folders[0]).instance_group
    assert list(group.profile) == ["0", "1"]
    assert not read(messages, folders[1]).instance_group

    feed = {i.name: filled(i) for i in session.get_inputs()}
    for found, expected in zip(session.run(None, feed), original.run(None, feed), strict=True):
        np.testing.assert_array_equal(found, expected)

    plan = repository / "tiny" / "1" / "model.plan"
    assert plan.stat().st_ino == (out / "engine" / "model.engine").stat().st_ino
    assert (plan.parent / "libpatch_linear.so").read_bytes() == b"a library"
    # onnx refuses linked data, in OUT too
    onnx.load(out / "onnx" / "model.onnx")
    onnx.load(repository / "tiny-onnx" / "1" / "model.onnx" / "model.onnx")
    assert (out / "onnx" / "model.onnx.data").read_bytes() == data


def test_the_embeddings_of_a_w8a8_encoder(settings, make_model, tmp_path, messages):
    """Pooled answers of the model in the repository are the pruned checkpoint's, whatever pads the shorter text."""
    model = make_model("bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    report = build(settings | {"model": model, "weights": "w8a8"})
    assert {row["weights"] for row in report["linears"]} == {"w8a8"}
    add_engine(settings["out"], profiles=("encoder",))
    (engine, twin), _ = make_repository(settings["out"], tmp_path / "repository")
    for folder in (engine, twin):
        parsed = read(messages, folder)
        assert [tensor.name for tensor in parsed.input] == ["input_ids", "attention_mask", "token_type_ids"]
        assert parsed.output[0].name == "last_hidden_state" and not parsed.instance_group

    session = onnxruntime.InferenceSession(twin / "1" / "model.onnx" / "model.onnx")
    checkpoint = AutoModel.from_pretrained(settings["out"] / "model").eval()
    texts = [np.arange(5, 20), np.arange(30, 39)]
    ids, mask = np.zeros((2, 15), np.int64), np.zeros((2, 15), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(["last_hidden_state"], feed)
    for row, text in enumerate(texts):
        with torch.no_grad():
            expected = checkpoint(input_ids=torch.from_numpy(text)[None]).last_hidden_state[0].mean(0).numpy()
        found = hidden[row, : len(text)].astype(np.float32).mean(0)
        assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.99


def filled(given):
    """Ones for a decoder's input: one sequence of 3 tokens after a cache of 2."""
    sizes = {"batch": 1, "sequence": 3, "past": 2, "total": 5}
    kind = {"tensor(int64)": np.int64, "tensor(float16)": np.float16}[given.type]
    return np.ones([sizes.get(d, d) for d in given.shape], kind)


@pytest.mark.rtx
def test_tensorrt_rtx_engines_are_refused(settings, tmp_path, capsys):
    build(
        settings | {"method": "magnitude", "lowering": "plugin", "backend": "tensorrt-rtx", "target": "sm86"}
    )
    repository = tmp_path / "repository"
    assert main([str(settings["out"]), str(repository)]) == 0
    said = capsys.readouterr()
    assert "model.engine is of tensorrt-rtx 1." in said.err and "--backend tensorrt " in said.err
    assert said.out.splitlines() == [str(repository / "out-onnx")]
    assert [path.name for path in repository.iterdir()] == ["out-onnx"]


def test_a_scalar_and_an_initializer_among_the_inputs(tmp_path, messages):
    (folder,), _ = make_repository(small_onnx(tmp_path / "small"), tmp_path / "repository")
    parsed = read(messages, folder)
    assert [tensor.name for tensor in parsed.input] == ["x"]
    vector, scalar = parsed.output
    assert list(vector.dims) == [-1] and not vector.HasField("reshape")
    assert list(scalar.dims) == [1] and scalar.HasField("reshape") and list(scalar.reshape.shape) == []


def test_names_are_quoted(messages):
    value = helper.make_tensor_value_info('a "b" \\c', TensorProto.FLOAT, [2])
    graph = helper.make_graph([], "odd", [value], [])
    parsed = text_format.Parse(config("n", graph, "onnxruntime_onnx"), messages.ModelConfig())
    assert parsed.input[0].name == 'a "b" \\c' and list(parsed.input[0].dims) == [2]


def test_bfloat16_has_no_twin(tmp_path):
    out = small_onnx(tmp_path / "bf16", TensorProto.BFLOAT16)
    with refused():
        make_repository(out, tmp_path / "repository")
    add_engine(out, profiles=("given",))
    (folder,), left_out = make_repository(out, tmp_path / "repository")
    assert folder.name == "bf16" and "bfloat16" in left_out[0]
    assert "TYPE_BF16" in (folder / "config.pbtxt").read_text()
    assert "instance_group" not in (folder / "config.pbtxt").read_text()


class TestErrors:
    """Each error is one line with exit code 1, and nothing is written."""

    def run(self, *arguments):
        done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")
        return done.stderr

    def test_a_folder_that_is_no_out(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "is not an OUT of patch-compile" in self.run(tmp_path / "empty", tmp_path / "repository")
        assert "is not an OUT of patch-compile" in self.run(tmp_path / "missing", tmp_path / "repository")
        assert not (tmp_path / "repository").exists()

    def test_a_file_that_is_no_onnx(self, tmp_path):
        (tmp_path / "out" / "onnx").mkdir(parents=True)
        (tmp_path / "out" / "onnx" / "model.onnx").write_text("nothing")
        assert "is not an ONNX model" in self.run(tmp_path / "out", tmp_path / "repository")

    def test_a_report_that_is_none(self, tmp_path):
        out = small_onnx(tmp_path / "out")
        for text in ("{", "[]", "{}", json.dumps({"engine": {"backend": "tensorrt"}})):
            (out / "report.json").write_text(text)
            with refused():
                make_repository(out, tmp_path / "repository")
        assert not (tmp_path / "repository").exists()

    def test_a_missing_engine(self, tmp_path):
        out = small_onnx(tmp_path / "out")
        add_engine(out)
        (out / "engine" / "model.engine").unlink()
        with refused():
            make_repository(out, tmp_path / "repository")
        assert not (tmp_path / "repository").exists()

    def test_a_model_that_is_there_stays(self, tmp_path):
        out = small_onnx(tmp_path / "out")
        (tmp_path / "repository" / "out-onnx").mkdir(parents=True)
        add_engine(out)
        with refused():
            make_repository(out, tmp_path / "repository")
        assert [path.name for path in (tmp_path / "repository").iterdir()] == ["out-onnx"]

    @pytest.mark.parametrize("name", ["a/b", "..", "/"])
    def test_a_name_that_leaves_the_repository(self, tmp_path, name):
        with refused():
            make_repository(small_onnx(tmp_path / "out"), tmp_path / "repository", name)

    def test_a_type_that_triton_lacks(self, tmp_path):
        value = helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [2])
        with refused():
            config("n", helper.make_graph([], "g", [value], []), "onnxruntime_onnx")
