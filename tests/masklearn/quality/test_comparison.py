"""Comparing two models gives the same figures as measuring each on its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.folder import ROUNDED_INPUTS, rounded_inputs_setting
from masklearn.model.linears import linear_modules, read_linear, write_linear
from masklearn.model.models import load_model
from masklearn.model.modules import as_linears
from masklearn.model.store import WeightStore
from masklearn.quality.comparison import compare_models, divergences
from masklearn.quant.grid import StaticScales
from tests.conftest import ModelMaker
from tests.masklearn.edits import edit_config, edited_weights
from tests.refusals import refused

WINDOWS = np.random.default_rng(0).integers(2, 22, (3, 20))


def silent(*_: object) -> None: ...


def halved(path: Path, scratch: Path) -> Checkpoint:
    """The checkpoint with every other weight along K set to zero."""
    checkpoint, store = Checkpoint.open(path), WeightStore(scratch)
    for name in covered_linears_of(checkpoint).linears:
        weight = read_linear(checkpoint, name)
        weight[:, ::2] = 0.0
        write_linear(store, checkpoint, name, weight)
    return checkpoint.with_weights(store)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "mixtral"])
def test_predictions_are_those_of_whole_models(
    make_model: ModelMaker, tmp_path: Path, model_type: str
) -> None:
    path = make_model(model_type)
    pruned = halved(path, tmp_path / "w")
    names = list(covered_linears_of(pruned).linears)
    found = compare_models(Checkpoint.open(path), pruned, names, WINDOWS, "cpu", silent)
    ids = torch.from_numpy(WINDOWS)
    with torch.no_grad():
        p = load_model(path)(ids).logits[:, :-1].double()
        q = whole(path, pruned)(ids).logits[:, :-1].double()
    assert found.predictions is not None
    labels = ids[:, 1:, None]
    nll = [-logits.log_softmax(-1).gather(-1, labels).mean() for logits in (p, q)]
    assert found.predictions.perplexity == pytest.approx([float(x.exp()) for x in nll], rel=1e-4)
    kl = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean()
    assert found.predictions.kl / found.predictions.tokens == pytest.approx(float(kl), rel=1e-3)
    assert found.logits is not None
    error, stats = (p - q).abs().numpy(), found.logits.stats()
    assert stats["max"] == pytest.approx(error.max(), rel=1e-3)
    assert stats["mean"] == pytest.approx(error.mean(), rel=1e-3)
    assert stats["median"] == pytest.approx(np.median(error), rel=0.02)
    assert stats["rms"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
    assert stats["scale"] == pytest.approx(float(p.abs().max()), rel=1e-3)
    same = (p.argmax(-1) == q.argmax(-1)).sum()
    assert abs(found.predictions.same_top1 - int(same)) <= 1  # a tie may be broken either way
    assert len(found.blocks) == 3
    assert set(found.linears) == set(names)


def whole(path: Path, pruned: Checkpoint) -> torch.nn.Module:
    """The pruned model as transformers runs it, with experts as separate linears."""
    model = load_model(path)
    linears = linear_modules(model, Checkpoint.open(path))
    for name in covered_linears_of(pruned).linears:
        linears[name].weight.data = read_linear(pruned, name)
    return model


def test_streamed_errors_equal_hooked_errors(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model("opt")  # OPT's linears have biases
    pruned = halved(path, tmp_path / "w")
    names = list(covered_linears_of(pruned).linears)
    found = compare_models(Checkpoint.open(path), pruned, names, WINDOWS, "cpu", silent)
    dense, other = load_model(path), whole(path, pruned)
    as_linears(dense)
    ids, name = torch.from_numpy(WINDOWS), names[-1]
    seen: dict[str, torch.Tensor] = {}

    def keep(key):
        return lambda _, inputs, output: seen.update(
            {key: inputs[0].detach(), f"{key}:out": output if torch.is_tensor(output) else output[0]}
        )

    dense.get_submodule(name).register_forward_hook(keep("x"))
    dense.model.decoder.layers[1].register_forward_hook(keep("dense"))
    other.model.decoder.layers[1].register_forward_hook(keep("pruned"))
    with torch.no_grad():
        dense(ids), other(ids)
    x, w, v = seen["x"].double(), read_linear(Checkpoint.open(path), name), read_linear(pruned, name)
    error, energy = found.linears[name]
    assert error == pytest.approx(float((x @ (w - v).double().T).square().sum()), rel=1e-4)
    assert energy == pytest.approx(float((x @ w.double().T).square().sum()), rel=1e-4)
    a, b = seen["dense:out"], seen["pruned:out"]
    assert found.blocks[1] == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-3)


def test_an_encoder_has_no_predictions(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model("bert")
    pruned = halved(path, tmp_path / "w")
    found = compare_models(Checkpoint.open(path), pruned, [], WINDOWS, "cpu", silent)
    assert found.predictions is None and found.logits is None
    assert len(found.blocks) == 3
    assert all(error > 0.01 for error in found.blocks)


def test_an_activation_that_overflows_is_named(make_model: ModelMaker) -> None:
    path = make_model("llama")
    broken = make_model("llama")
    with edited_weights(broken) as tensors:
        for name in ("gate", "up", "down"):
            tensors[f"model.layers.1.mlp.{name}_proj.weight"] *= 1e14
    with refused():
        compare_models(Checkpoint.open(path), Checkpoint.open(broken), [], WINDOWS, "cpu", silent)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_it_is_the_kl_of_whole_models(make_model: ModelMaker, tmp_path: Path, model_type: str) -> None:
    path = make_model(model_type)
    pruned = halved(path, tmp_path / "w")
    found = divergences(pruned, [Checkpoint.open(path), pruned], WINDOWS, "cpu", silent)
    dense, other = load_model(path), whole(path, pruned)
    ids = torch.from_numpy(WINDOWS)
    with torch.no_grad():
        p, q = other(ids).logits.log_softmax(-1), dense(ids).logits.log_softmax(-1)
    assert found[0] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found[0] > 0.01
    assert found[1] == pytest.approx(0.0, abs=1e-6)


def test_encoders_are_compared_by_their_hidden_states(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model("bert")
    dense, pruned = Checkpoint.open(path), halved(path, tmp_path / "w")
    apart, same = divergences(dense, [pruned, dense], WINDOWS, "cpu", silent)
    assert 0.0 < apart < 4.0
    assert same == 0.0


def test_activations_beyond_a_static_scale_are_counted(make_model: ModelMaker) -> None:
    path, name = make_model("llama"), "model.layers.0.self_attn.q_proj"
    seen: list[torch.Tensor] = []
    model = load_model(path)
    model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs()))
    with torch.no_grad():
        model(torch.from_numpy(WINDOWS))
    dense, scale = Checkpoint.open(path), float(seen[0].quantile(0.9)) / 127.5
    edit_config(path, **{ROUNDED_INPUTS: rounded_inputs_setting({name: StaticScales(input=scale)})})
    found = compare_models(dense, Checkpoint.open(path), [name], WINDOWS, "cpu", silent)
    assert found.overflows == {name: pytest.approx(0.1, abs=0.01)}
