from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.models import auto_class, meta_model
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every
from tests.masklearn.edits import edit_config
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


def test_config_of_no_model(make_model: ModelMaker) -> None:
    path = make_model("gpt2")
    edit_config(path, n_head=5)
    with refused():
        meta_model(Checkpoint.open(path))
