from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.linears import (
    as_linears,
    read_linear,
    read_tensor,
    write_linear,
)
from masklearn.model.store import WeightStore
from tests.conftest import ModelMaker
from tests.refusals import refused

IDS = torch.arange(2, 20)[None]


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_model_of_linears_computes_what_it_did(make_model: ModelMaker, model_type: str) -> None:
    whole = AutoModelForCausalLM.from_pretrained(make_model(model_type)).eval()
    expected = whole(IDS).logits
    as_linears(whole)
    assert all(parameter.dim() < 3 for parameter in whole.parameters())
    assert sum(isinstance(module, torch.nn.Linear) for module in whole.modules()) > 12
    torch.testing.assert_close(whole(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_expert_without_tokens_is_called(make_model: ModelMaker) -> None:
    """One token goes to two of four experts, and hooks on the other two are called too."""
    whole = AutoModelForCausalLM.from_pretrained(make_model("mixtral")).eval()
    as_linears(whole)
    rows = []
    for expert in whole.model.layers[0].mlp.experts:
        expert.up_proj.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    whole(IDS[:, :1])
    assert sorted(rows) == [0, 0, 1, 1]


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_new_weights_have_the_layout_of_the_checkpoint(make_model, tmp_path: Path, model_type: str) -> None:
    checkpoint = Checkpoint.open(make_model(model_type, dtype=torch.float16))
    store = WeightStore(tmp_path / "new")
    for name, shape in covered_linears(checkpoint.path).linears.items():
        weight = torch.randn(shape).half().float()
        write_linear(store, checkpoint, name, weight)
        stored = store.read(f"{name}.weight")
        assert stored.shape == checkpoint.shape(f"{name}.weight")
        assert (stored == (weight.T if model_type == "gpt2" else weight).half().numpy()).all()
        assert torch.equal(read_linear(checkpoint.with_weights(store), name), weight)


def test_read_tensor_takes_the_shape_of_the_model(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model("gpt2"))
    name = "transformer.h.0.attn.c_attn.weight"
    assert read_tensor(checkpoint, name, torch.Size([144, 48])).shape == (144, 48)
    assert read_tensor(checkpoint, "transformer.wte.weight", torch.Size([40, 48])).shape == (40, 48)
    with refused():
        read_tensor(checkpoint, name, torch.Size([48, 144]))
    with refused():
        read_tensor(checkpoint, "h.weight", torch.Size([1]))
