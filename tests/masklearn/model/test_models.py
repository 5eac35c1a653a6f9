import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from masklearn.learning import learn
from masklearn.masks.maskset import MaskSet
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.linears import linear_modules, read_linear
from masklearn.model.models import auto_class, load_model, meta_model
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every
from tests.mosaics import random_mask
from tests.refusals import refused


@pytest.mark.parametrize("model_type", every())
def test_meta_parameters_take_no_memory(make_model: ModelMaker, model_type: str) -> None:
    path = make_model(model_type)
    model = meta_model(Checkpoint.open(path))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not model.training
    whole = auto_class(ARCHITECTURES[model_type]).from_pretrained(path)
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(whole.named_buffers()).keys()
    for name, buffer in whole.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_a_pooler_that_the_checkpoint_lacks_is_dropped(make_model: ModelMaker, tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(make_model("bert")).save_pretrained(tmp_path / "masked")
    assert not any("pooler" in name for name in load_file(tmp_path / "masked" / "model.safetensors"))
    assert meta_model(Checkpoint.open(tmp_path / "masked")).pooler is None
    assert covered_linears(tmp_path / "masked").skipped == {}


def test_tied_weights_are_one_parameter(make_model: ModelMaker) -> None:
    model = meta_model(Checkpoint.open(make_model("gpt2", tie_word_embeddings=True)))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_config_of_no_model(make_model: ModelMaker) -> None:
    path = make_model("gpt2")
    config = json.loads((path / "config.json").read_text()) | {"n_head": 5}
    (path / "config.json").write_text(json.dumps(config))
    with refused():
        meta_model(Checkpoint.open(path))


def test_a_masked_model_has_only_mask_zeros(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model()
    masks = learn(path, LearnRecipe(method="magnitude", tile=(32, 32), ratio=0.3), tmp_path).masks
    dense = AutoModelForCausalLM.from_pretrained(path).state_dict()
    for name, tensor in load_model(path, masks).state_dict().items():
        mask = masks.get(name.removesuffix(".weight"))
        expected = (
            dense[name] if mask is None else torch.where(torch.from_numpy(mask.keep()), dense[name], 0.0)
        )
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("model_type", every())
def test_masks_reach_the_weights_of_every_layout(make_model: ModelMaker, model_type: str) -> None:
    """Layouts include transposed weights, fused experts and names that differ from the module's."""
    path = make_model(model_type)
    checkpoint, linears = Checkpoint.open(path), covered_linears(path).linears
    masks = MaskSet(
        {name: random_mask(shape, (32, 32), 0.5, i)[0] for i, (name, shape) in enumerate(linears.items())},
        method="random", seed=0, base_model="x", base_sha256="", ratio_asked=0.25,
    )  # fmt: skip
    masked, dense = load_model(path, masks), load_model(path)
    assert type(masked) is type(auto_class(ARCHITECTURES[model_type]).from_pretrained(path))
    for name, linear in linear_modules(masked, checkpoint).items():
        weight = linear_modules(dense, checkpoint)[name].weight
        expected = torch.where(torch.from_numpy(masks[name].keep()), weight, 0.0) if name in masks else weight
        assert torch.equal(linear.weight, expected), name
        if name in masks:
            assert torch.equal(weight, read_linear(checkpoint, name))


def test_masks_of_another_model(make_model: ModelMaker, tmp_path: Path) -> None:
    masks = learn(make_model(), LearnRecipe(method="magnitude", tile=(32, 32)), tmp_path).masks
    with refused():
        load_model(make_model(intermediate_size=64), masks)
    with refused():
        load_model(make_model(num_hidden_layers=2), masks)
