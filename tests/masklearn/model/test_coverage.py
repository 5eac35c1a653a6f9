from typing import Any

import pytest
import torch

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from tests.conftest import ModelMaker
from tests.masklearn.edits import edit_config, edited_weights
from tests.refusals import refused

KINDS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]  # fmt: skip

EXPERT = ["gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(("model_type", "names"), [("mixtral", ("w1", "w3", "w2")), ("qwen3_moe", EXPERT)])
def test_routed_experts_are_dense_unless_named(
    make_model: ModelMaker, model_type: str, names: list[str]
) -> None:
    path = make_model(model_type)
    dense = {name: why for name, why in covered_linears(path).skipped.items() if ".experts." in name}
    assert len(dense) == 3 * 4 * 3
    assert all(why.startswith("it is a routed expert, which few tokens") for why in dense.values())
    assert list(covered_linears(path, ["*.experts.*"]).linears) == list(dense)
    assert [name.rpartition(".")[2] for name in dense][:3] == list(names)


def test_a_mixture_whose_blocks_differ(make_model: ModelMaker) -> None:
    """Every second block has experts; the router stays dense unless it is named."""
    path = make_model("qwen2_moe")
    kinds = [
        name.removeprefix("model.layers.")
        for name in covered_linears(path, ["*"], ["*_gate", "lm_head"]).linears
    ]
    experts = [f"1.mlp.experts.{i}.{kind}" for i in range(4) for kind in EXPERT]
    shared = [f"1.mlp.shared_expert.{kind}" for kind in EXPERT]
    mlp = [[f"0.{kind}" for kind in KINDS[4:]], [*experts, *shared], [f"2.{kind}" for kind in KINDS[4:]]]
    assert kinds == [name for i in range(3) for name in (*(f"{i}.{kind}" for kind in KINDS[:4]), *mlp[i])]
    gate = "model.layers.1.mlp.shared_expert_gate"
    assert covered_linears(path).skipped[gate].startswith("it routes tokens to experts")
    assert covered_linears(path, ["*.shared_expert_gate"]).linears == {gate: (1, 48)}


@pytest.mark.parametrize(
    ("model_type", "name", "reason"),
    [
        ("bert", "pooler.dense", "the layer after the last block is left dense unless included by name"),
        ("gpt_neox", "embed_out", "the output head is left dense unless included by name"),
        (
            "opt",
            "model.decoder.project_out",
            "the layer after the last block is left dense unless included by name",
        ),
        ("opt", "model.decoder.project_in", "it lies outside the blocks of the text model"),
        ("gemma3", "vision_tower.encoder.layers.0.mlp.fc1", "it lies outside the blocks of the text model"),
    ],
)
def test_what_lies_outside_the_blocks(make_model, model_type: str, name: str, reason: str) -> None:
    path = make_model(model_type)
    assert covered_linears(path).skipped[name].startswith(reason)
    included = covered_linears(path, ["*layer*0*", name])
    assert (name in included.linears) is ("unless included" in reason)


def test_include_and_exclude(make_model: ModelMaker) -> None:
    path = make_model()
    assert covered_linears(path).skipped == {
        "lm_head": "the output head is left dense unless included by name"
    }
    assert list(covered_linears(path, ["*.q_proj", "lm_head"]).linears) == [
        *(f"model.layers.{i}.self_attn.q_proj" for i in range(3)),
        "lm_head",
    ]
    coverage = covered_linears(path, [r"re:model\.layers\.[12]\..*"], ["*.mlp.*"])
    assert len(coverage.linears) == 8
    assert coverage.skipped["model.layers.0.self_attn.q_proj"] == "not included"
    assert coverage.skipped["model.layers.1.mlp.up_proj"] == "excluded"


def test_tied_head_is_never_covered(make_model: ModelMaker) -> None:
    path = make_model(tie_word_embeddings=True)
    assert "lm_head.weight" not in Checkpoint.open(path)
    coverage = covered_linears(path, ["*"])
    assert coverage.skipped == {"lm_head": "its weight is tied to the embedding"}


def test_k_that_groups_do_not_divide_stays_dense(make_model: ModelMaker) -> None:
    coverage = covered_linears(make_model(intermediate_size=70))
    assert coverage.skipped["model.layers.0.mlp.down_proj"] == "K = 70 is not a multiple of 4"
    assert coverage.linears["model.layers.0.mlp.up_proj"] == (70, 48)  # only K must be a multiple of 4


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_an_empty_weight_stays_dense(make_model: ModelMaker) -> None:
    """N = 0 and K = 0: an expert of no hidden channels, which a mixture may have."""
    coverage = covered_linears(make_model("qwen2_moe", shared_expert_intermediate_size=0))
    empty = {name for name, reason in coverage.skipped.items() if reason == "its weight is empty"}
    expert = "model.layers.1.mlp.shared_expert"
    assert {f"{expert}.{kind}_proj" for kind in ("gate", "up", "down")} <= empty
    assert coverage.linears and not any("shared_expert" in name for name in coverage.linears)


def test_no_weight_is_read(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a weight was read"))
    assert len(covered_linears(make_model(shard="30KB")).linears) == 21


@pytest.mark.parametrize("exclude", ["re:(", "*"])
def test_patterns_that_leave_nothing_are_refused(make_model: ModelMaker, exclude: str) -> None:
    with refused():
        covered_linears(make_model(), exclude=[exclude])


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        *(
            ("llama", {"model_type": kind})
            for kind in ("mamba", "whisper", "nobody", ["llama"], {"a": 1}, 4, None)
        ),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}),
        ("llama", {"intermediate_size": 80}),
        ("llama", {"num_hidden_layers": 4}),
        ("gpt2", {"n_inner": 80}),
    ],
)
def test_configs_of_other_models_are_refused(
    make_model: ModelMaker, model_type: str, settings: dict[str, Any]
) -> None:
    path = make_model(model_type)
    edit_config(path, **settings)
    with refused():
        covered_linears(path)


def test_weight_of_a_quantised_dtype(make_model: ModelMaker) -> None:
    path = make_model()
    name = "model.layers.0.self_attn.q_proj.weight"
    with edited_weights(path) as tensors:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    with refused():
        covered_linears(path)
