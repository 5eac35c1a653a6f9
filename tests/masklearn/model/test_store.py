from pathlib import Path

import pytest
import torch

from masklearn.base.shard import TensorEntry
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.store import WeightStore
from tests.conftest import ModelMaker
from tests.refusals import refused

NAME = "model.layers.1.mlp.up_proj.weight"
OTHER = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_new_values_have_the_checkpoints_dtype(make_model: ModelMaker, tmp_path: Path, dtype) -> None:
    base = Checkpoint.open(make_model(dtype=dtype))
    store = WeightStore(tmp_path / "new")
    checkpoint = base.with_weights(store)
    values = torch.randn(base.shape(NAME))
    store.put(NAME, values, base.entry(NAME))
    assert torch.equal(checkpoint.torch(NAME), values.to(dtype))
    assert checkpoint.dtype(NAME) == checkpoint.read(NAME).dtype
    assert not torch.equal(base.torch(NAME), checkpoint.torch(NAME))
    assert torch.equal(base.torch(OTHER), checkpoint.torch(OTHER))
    assert list(store.names()) == [NAME]
    assert checkpoint.fingerprint() == base.fingerprint()
    store.put(NAME, values * 2, base.entry(NAME))
    assert torch.equal(checkpoint.torch(NAME), (values * 2).to(dtype))


def two_stores(model: Path, folder: Path) -> tuple[WeightStore, WeightStore]:
    """A store that holds zeros for NAME, and the store below it, which holds ones for NAME and OTHER."""
    base = Checkpoint.open(model)
    below = WeightStore(folder / "below")
    store = WeightStore(folder / "above", below)
    for name in (NAME, OTHER):
        below.put(name, torch.ones(base.shape(name)), base.entry(name))
    store.put(NAME, torch.zeros(base.shape(NAME)), base.entry(NAME))
    return store, below


def test_a_store_never_writes_to_its_base(make_model, tmp_path: Path) -> None:
    store, below = two_stores(make_model(), tmp_path)
    assert store.names() == sorted([NAME, OTHER])
    assert not store.read(NAME).any()
    assert store.read(OTHER).all() and below.read(NAME).all()
    assert OTHER in store and "lm_head.weight" not in store


@pytest.mark.parametrize(
    "name",
    ["a/b", "../escaped", "/escaped", "..", "", "%2F", "x" * 300, "é" * 100, "x" * 149 + "/", "\0"],
    ids=range(10),
)
def test_any_name_becomes_a_file_in_the_folder(tmp_path: Path, name: str) -> None:
    store, entry = WeightStore(tmp_path / "above" / "new"), TensorEntry("F32", (2, 4), 0, 0)
    for value, one in enumerate((name, f"{name}x")):
        store.put(one, torch.full(entry.shape, float(value)), entry)
    assert [*tmp_path.rglob("*.safetensors")] == [*store.folder.iterdir()]
    assert store.names() == [name, f"{name}x"]
    assert not store.read(name).any() and store.read(f"{name}x").all()


def test_values_that_do_not_fit_are_refused(make_model: ModelMaker, tmp_path: Path) -> None:
    base = Checkpoint.open(make_model(dtype=torch.float16))
    store = WeightStore(tmp_path / "new")
    with refused(ValueError):
        store.put(NAME, torch.zeros(3, 4), base.entry(NAME))
    with refused():
        store.put(NAME, torch.full(base.shape(NAME), 1e6), base.entry(NAME))
    assert NAME not in store
