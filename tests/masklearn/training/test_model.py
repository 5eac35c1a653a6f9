"""A checkpoint's model for training computes the same as transformers' model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import load_model
from masklearn.model.precision import computes_in_bf16
from masklearn.model.store import WeightStore
from masklearn.training.model import last_hidden, training_model
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every

IDS = torch.arange(2, 26).reshape(2, 12) % 20


@pytest.mark.parametrize("model_type", every())
def test_it_is_the_model_of_transformers(make_model: ModelMaker, model_type: str) -> None:
    path = make_model(model_type)
    model = training_model(Checkpoint.open(path)).train()
    ours, theirs = last_hidden(model, IDS), last_hidden(load_model(path), IDS)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_tied_parameters_are_one(make_model: ModelMaker) -> None:
    model = training_model(Checkpoint.open(make_model("llama", tie_word_embeddings=True)))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_it_has_no_dropout(make_model: ModelMaker) -> None:
    model = training_model(Checkpoint.open(make_model("gpt2"))).train()
    torch.testing.assert_close(last_hidden(model, IDS), last_hidden(model, IDS), rtol=0, atol=0)


def test_new_weights_count(make_model: ModelMaker, tmp_path: Path) -> None:
    checkpoint, store = Checkpoint.open(make_model()), WeightStore(tmp_path / "new")
    name = "model.layers.0.mlp.up_proj.weight"
    store.put(name, torch.full(checkpoint.shape(name), 0.5), checkpoint.entry(name))
    model = training_model(checkpoint.with_weights(store))
    assert bool((model.get_parameter(name) == 0.5).all())


def test_given_parameters_are_shared_and_linears_may_be_bf16(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    embedding = training_model(checkpoint).get_input_embeddings().weight
    model = training_model(checkpoint, {"model.embed_tokens.weight": embedding}, torch.bfloat16)
    assert model.get_input_embeddings().weight is embedding
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert {linear.weight.dtype for linear in linears} == {torch.bfloat16}
    assert model.model.norm.weight.dtype is torch.float32


def test_attention_stays_in_fp32_on_a_cpu(make_model: ModelMaker) -> None:
    model, seen = training_model(Checkpoint.open(make_model())), []
    plain = nn.functional.scaled_dot_product_attention

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is plain:
                seen.append({tensor.dtype for tensor in args[:3]})
            return function(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Watch():
        last_hidden(model, IDS)
    assert seen == [{torch.float32}] * 3


def test_precision_is_what_is_asked_for() -> None:
    assert computes_in_bf16("bf16", torch.device("cpu"))
    assert not computes_in_bf16("fp32", torch.device("cpu"))


@pytest.mark.parametrize("units", [(), ("_is_avx512_bf16_supported",), ("_is_amx_tile_supported",)])
def test_auto_takes_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...]
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in units)
    assert computes_in_bf16("auto", torch.device("cpu")) == bool(units)
