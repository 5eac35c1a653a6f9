import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from masklearn.model.checkpoint import Checkpoint
from tests.conftest import ModelMaker
from tests.masklearn.edits import edited_weights
from tests.refusals import refused


def hub_like(model: Path, cache: Path) -> Path:
    """Lay the model out as a hub cache does, as a snapshot of links to blobs."""
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in model.iterdir():
        (blobs / f"blob-{file.name}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob-{file.name}")
    return snapshot


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("tokenizer.model", "/etc/hostname"),
        ("data", "/etc"),
        ("onnx/data.json", "../../outside/x"),
        ("model.safetensors.index.json", "../outside/x"),
        ("gone", "../gone"),
        ("loop", "loop"),
    ],
)
def test_links_that_lead_out_of_the_folder(
    make_model: ModelMaker, tmp_path: Path, name: str, to: str
) -> None:
    model = make_model()
    (model / "onnx").mkdir()
    (model / "inside.json").symlink_to("config.json")
    (model / ".git").symlink_to("/etc")  # hidden folders are neither read nor copied
    Checkpoint.open(model)
    (tmp_path / "outside").mkdir()
    (model / name).symlink_to(to)
    with refused():
        Checkpoint.open(model)
    Checkpoint.of_config(model)  # it reads only config.json


def test_a_config_may_link_out_of_its_folder(make_model: ModelMaker, tmp_path: Path) -> None:
    model = make_model()
    (model / "config.json").rename(tmp_path / "config.json")
    (model / "config.json").symlink_to("../config.json")
    for opened in (Checkpoint.open, Checkpoint.of_config):
        with refused():
            opened(model)


@pytest.mark.parametrize(("name", "to"), [("onnx/again", ".."), ("onnx/more", "data"), ("again", ".")])
def test_links_to_folders_that_could_lead_in_circles(make_model: ModelMaker, name: str, to: str) -> None:
    model = make_model()
    (model / "onnx/data").mkdir(parents=True)
    (model / "latest").symlink_to("onnx")  # such as training programs make
    Checkpoint.open(model)
    (model / name).symlink_to(to)
    with refused():
        Checkpoint.open(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shard", ["5GB", "30KB"])
def test_every_tensor_as_the_library_reads_it(make_model: ModelMaker, dtype: torch.dtype, shard: str) -> None:
    path = make_model(dtype=dtype, shard=shard)
    checkpoint = Checkpoint.open(path)
    tensors = {k: v for file in path.glob("*.safetensors") for k, v in load_file(file).items()}
    assert checkpoint.names() == sorted(tensors)
    assert len(checkpoint.files()) == len(list(path.glob("*.safetensors")))
    for name, tensor in tensors.items():
        assert name in checkpoint
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name).name == str(dtype).removeprefix("torch.")
        assert checkpoint.torch(name).dtype == dtype
        assert torch.equal(checkpoint.torch(name), tensor)
        raw = checkpoint.read(name)
        assert raw.tobytes() == tensor.view(torch.uint8).numpy().tobytes()
        entry = checkpoint.entry(name)
        assert checkpoint.shard_of(name).read_bytes()[entry.start : entry.end] == raw.tobytes()


def test_links_are_resolved(make_model: ModelMaker, tmp_path: Path) -> None:
    model = make_model(shard="30KB")
    snapshot = hub_like(model, tmp_path / "hub")
    checkpoint = Checkpoint.open(snapshot)
    assert all(file.parent.name == "blobs" and not file.is_symlink() for file in checkpoint.files())
    assert checkpoint.fingerprint() == Checkpoint.open(model).fingerprint()


def test_fingerprint_sees_one_bit_of_weight_or_config(make_model: ModelMaker) -> None:
    path = make_model()
    prints = {Checkpoint.open(path).fingerprint()}
    weights = path / "model.safetensors"
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    prints.add(Checkpoint.open(path).fingerprint())
    (path / "config.json").write_text((path / "config.json").read_text() + "\n")
    prints.add(Checkpoint.open(path).fingerprint())
    assert len(prints) == 3


def test_weights_that_are_not_finite_are_named(make_model: ModelMaker) -> None:
    path = make_model()
    with edited_weights(path) as tensors:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
        tensors["model.layers.1.mlp.up_proj.weight"][4, 5] = float("-inf")
    with refused():
        Checkpoint.open(path).read_finite("model.layers.1.mlp.up_proj.weight")


def test_broken_link(make_model: ModelMaker, tmp_path: Path) -> None:
    snapshot = hub_like(make_model(), tmp_path / "hub")
    (tmp_path / "hub/blobs/blob-model.safetensors").unlink()
    with refused():
        Checkpoint.open(snapshot)


def index(weight_map: object) -> bytes:
    return json.dumps({"weight_map": weight_map}).encode()


NO_FILES = [
    "", ".", "..", "../other/model.safetensors", "sub/model.safetensors", "sub\\model.safetensors", "/etc/passwd",
    "HERE/model.safetensors", "model.safetensors\0", "model.safetensors\n", "\ud800", "sub", "nowhere.safetensors",
    "n" * 5000, 7, None, ["model.safetensors"], {"a": "b"}, float("nan"),
]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        *(index({"model.norm.weight": file}) for file in NO_FILES),
        *(index(one) for one in ({}, None, ["model.safetensors"], "model.safetensors")),
        b'{"weight_map": {"a": "\xff\xfe"}}',
        b"",
        b'["model.safetensors"]',
        b'"model.safetensors"',
        pytest.param(b"[" * 200_000, id="arrays"),
        pytest.param(b'{"weight_map": ' * 200_000, id="objects"),
    ],
)
def test_an_index_that_names_no_shards_is_refused(make_model: ModelMaker, content: bytes) -> None:
    """A path that exists is refused too, because it leaves the folder, and one into the folder, because it is no name."""
    path = make_model()
    for other in (path.parent / "other", path / "sub"):
        other.mkdir()
        (other / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    (path / "model.safetensors.index.json").write_bytes(content.replace(b"HERE", bytes(path.absolute())))
    with refused():
        Checkpoint.open(path)


@pytest.mark.parametrize(
    "config",
    [None, b"{", b"[]", b"{}", pytest.param(b'{"a": ' * 200_000, id="nested"), b"\xff\xfe{}"],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, config: bytes | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    with refused():
        Checkpoint.open(tmp_path)


def test_pickled_and_missing_weights_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with refused():
            Checkpoint.open(folder)


def test_reading_leaves_the_file_alone(make_model: ModelMaker) -> None:
    """A tensor that was read is a copy, so writing to it does not change the checkpoint."""
    checkpoint = Checkpoint.open(make_model())
    name = checkpoint.names()[0]
    before = checkpoint.read(name)
    checkpoint.torch(name).zero_()
    np.testing.assert_array_equal(checkpoint.read(name), before)
