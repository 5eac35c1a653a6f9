"""Permuting hidden channels does not change the model's outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn import permute as module
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import PermutedRecord
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.models import auto_class
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.model.store import WeightStore
from masklearn.permute import permute, reordered
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every
from tests.masklearn.conftest import Tiny
from tests.masklearn.mask_sets import set_of
from tests.refusals import refused

PARTS = {  # models with other than one part for each of three blocks
    "mixtral": 3 * 4,
    "qwen2_moe": 2 + 4 + 1,  # every second block has experts, and a shared expert besides
    "qwen3_moe": 3 * 4,
}

SETTINGS = {"tile": (32, 32), "permute": True}
# Routed experts are covered only if they are named.
_ALL = {"include": (r"re:.*(_proj|\.w\d)",)}


def outputs(path: Path, model_type: str) -> torch.Tensor:
    """Logits, or an encoder's last hidden states, of the model as transformers loads it."""
    model = auto_class(ARCHITECTURES[model_type]).from_pretrained(path, dtype=torch.float32).eval()
    ids = torch.arange(2, 34).view(2, 16)
    with torch.no_grad():
        found = model(input_ids=ids)
    return found.last_hidden_state if ARCHITECTURES[model_type].encoder else found.logits


@pytest.mark.parametrize("model_type", every())
def test_the_dense_model_computes_what_it_did(make_model: ModelMaker, tiny: Tiny, model_type: str) -> None:
    """transformers runs the permuted checkpoint of every architecture; only the rounding of sums differs."""
    path = make_model(model_type)
    found = permute(tiny.task(path, **(_ALL if model_type in PARTS else {})))
    assert len(found.orders) == found.record.parts == PARTS.get(model_type, 3)
    for name, order in found.orders.items():
        assert not np.array_equal(order, np.sort(order))
        assert not torch.equal(read_linear(found.checkpoint, name), read_linear(Checkpoint.open(path), name))
    write_pruned_checkpoint(found.checkpoint, set_of({}), tiny.folder / "permuted")
    before, after = outputs(path, model_type), outputs(tiny.folder / "permuted", model_type)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("fp32")
def test_channels_are_sorted_by_output_contribution(make_model: ModelMaker, tiny: Tiny) -> None:
    """The contribution of each channel is measured on the model itself."""
    path = make_model(num_hidden_layers=1)
    task = tiny.task(path)
    order = permute(task).orders["model.layers.0.mlp.down_proj"]
    model = auto_class(ARCHITECTURES["llama"]).from_pretrained(path, dtype=torch.float64).eval()
    inputs: list[torch.Tensor] = []
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(task.text.calibration()))
        hidden = inputs[0].flatten(0, -2)
        shares = [float(torch.outer(hidden[:, i], down.weight[:, i]).norm()) for i in range(hidden.shape[1])]
    assert list(order) == list(np.argsort(shares))


def test_partly_covered_parts_keep_their_order(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model()
    task = tiny.task(path, exclude=("model.layers.1.mlp.down_proj",))
    assert list(permute(task).orders) == [f"model.layers.{i}.mlp.down_proj" for i in (0, 2)]


def test_nothing_to_permute_is_said(make_model: ModelMaker, tiny: Tiny) -> None:
    said: list[str] = []
    found = permute(tiny.task(make_model(), include=("*.q_proj",), note=said.append))
    assert not found.orders and "no channels to permute" in said[0]
    assert found.record == PermutedRecord(parts=0, channels=0, dense_error=0.0)


def test_outputs_that_differ_stop_it(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs differ when channels are not free to change places: only up is permuted, then all but the biases."""
    right = module._permute_linears
    path = make_model("gpt2")

    def up_alone(block: Any, mlp: Any, order: torch.Tensor) -> None:
        down = block.linears[mlp.down].weight.data.clone()
        right(block, mlp, order)
        block.linears[mlp.down].weight.data = down

    def all_but_biases(block: Any, mlp: Any, order: torch.Tensor) -> None:
        bias = block.linears[mlp.up[0]].bias.data.clone()
        right(block, mlp, order)
        block.linears[mlp.up[0]].bias.data = bias

    for wrong in (up_alone, all_but_biases):
        monkeypatch.setattr(module, "_permute_linears", wrong)
        with refused(RuntimeError):
            permute(tiny.task(path))


def test_a_run_that_goes_on_permutes_once(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny.task(make_model())
    first = permute(task)
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("it is there already"))
    again = permute(task)
    assert again.record == first.record
    assert all(np.array_equal(again.orders[name], order) for name, order in first.orders.items())
    (task.scratch / "orders.safetensors").unlink()
    with pytest.raises(pytest.fail.Exception, match="already"):
        permute(task)


@pytest.mark.parametrize("method", ["oneshot", "sparsegpt", "wanda", "magnitude", "patch-joint"])
def test_what_is_learned_is_the_permuted_model_pruned(
    make_model: ModelMaker, tiny: Tiny, method: str
) -> None:
    """Dense linears and biases are permuted too: without a 2:4 tile the written model equals the dense model."""
    path = make_model("opt")
    settings = {"method": method, "steps": 2, "batch": 1, "prior": "magnitude"}
    for ratio in (0.0, 0.3):
        learned = tiny.learn(path, f"scratch-{ratio}", ratio=ratio, **settings)
        learned.masks.save(tiny.folder / "masks.safetensors")
        masks = MaskSet.load(tiny.folder / "masks.safetensors")
        assert masks.record.permuted.parts == len(masks.orders) == 3
        assert masks.record.permuted.dense_error < 1e-5
        new = tiny.prune(learned, f"pruned-{ratio}")
        if ratio == 0.0:
            torch.testing.assert_close(outputs(new.path, "opt"), outputs(path, "opt"), rtol=1e-4, atol=1e-4)
            if method == "patch-joint":  # the contest of masks compares permuted models too
                assert max(masks.record.train.kl.values()) < 1e-6
            continue
        for name, mask in masks.items():
            assert not bool(read_linear(new, name)[torch.from_numpy(~mask.keep())].any())
        if method in ("wanda", "magnitude"):  # surviving weights are the checkpoint's, at their new places
            name = "model.decoder.layers.1.fc2"
            old = read_linear(Checkpoint.open(path), name)[:, torch.from_numpy(masks.orders[name]).long()]
            keep = torch.from_numpy(masks[name].keep())
            assert torch.equal(read_linear(new, name), torch.where(keep, old, 0.0))


def test_repair_starts_from_the_permuted_model(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is the checkpoint on disk, whose outputs are equal."""
    monkeypatch.setattr("masklearn.training.repair._is_dense", lambda *_: False)
    learned = tiny.learn(make_model("gpt2"), ratio=0.0, repair="distill", repair_steps=1, batch=1)
    assert learned.masks.record.repair.kl_first < 1e-6


@pytest.mark.parametrize(("permuted", "again"), [(True, True), (True, False), (False, True)])
def test_masks_in_another_order_are_no_prior(
    make_model: ModelMaker, tiny: Tiny, permuted: bool, again: bool
) -> None:
    path, prior = make_model(), tiny.folder / "prior.safetensors"
    tiny.learn(path, "prior", method="magnitude", permute=permuted).masks.save(prior)
    with refused():
        tiny.learn(path, method="patch-tile", prior=str(prior), steps=2, permute=again)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2", "opt", "mixtral"])
def test_dense_models_take_their_masks_order(make_model: ModelMaker, tiny: Tiny, model_type: str) -> None:
    """The orders suffice to make the permuted model."""
    path = make_model(model_type)
    made = permute(tiny.task(path, **(_ALL if model_type in PARTS else {})))
    found = reordered(Checkpoint.open(path), made.orders, WeightStore(tiny.folder / "again"))
    assert found.new is not None
    assert made.checkpoint.new is not None
    assert found.new.names() == made.checkpoint.new.names()
    for name in found.new.names():
        assert np.array_equal(found.new.read(name), made.checkpoint.new.read(name)), name
