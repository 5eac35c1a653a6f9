"""Quantised checkpoints are read as dense checkpoints of the same values, with their grids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from masklearn import Pattern, read_zeros
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import describe_checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.models import load_model
from masklearn.model.quantised.base import QUANTISATIONS
from tests.masklearn.edits import edit_config, edited_weights
from tests.masklearn.model.quantised.writers import awq, compressed_tensors, gptq, marlin24, scheme, sparse
from tests.refusals import refused

Write = Callable[[Path], dict[str, torch.Tensor]]
Change = Callable[[torch.Tensor], torch.Tensor | None]
_BLOCK = "model.layers.0"
_Q, _DOWN = f"{_BLOCK}.self_attn.q_proj", f"{_BLOCK}.mlp.down_proj"


def _formats(name: str, about: dict[str, Any]) -> dict[str, Any]:
    return about | {"format": name}


def w8a8(**inputs: Any) -> dict[str, Any]:
    about = _formats("int-quantized", scheme(8, None))
    of_tokens = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    about["config_groups"]["group_0"]["input_activations"] = of_tokens | inputs
    return about


READ: dict[str, Write] = {
    "ct-int4-64": lambda path: compressed_tensors(path, scheme(4, 64)),
    "ct-int4-128": lambda path: compressed_tensors(path, scheme(4, 128)),
    "ct-int4-channel": lambda path: compressed_tensors(path, scheme(4, None)),
    "ct-int8": lambda path: compressed_tensors(path, scheme(8, None)),
    "ct-naive-int8": lambda path: compressed_tensors(path, _formats("naive-quantized", scheme(8, None))),
    "ct-naive-int4": lambda path: compressed_tensors(path, _formats("naive-quantized", scheme(4, 64))),
    "ct-int-quantized": lambda path: compressed_tensors(path, _formats("int-quantized", scheme(8, None))),
    "ct-w8a8": lambda path: compressed_tensors(path, w8a8()),
    "marlin-int4-128": lambda path: marlin24(path, 4, 128),
    "marlin-int4-channel": lambda path: marlin24(path, 4, None),
    "marlin-int8": lambda path: marlin24(path, 8, None),
    "gptq-int4-64": lambda path: gptq(path, 4, 64),
    "gptq-int4-128": lambda path: gptq(path, 4, 128, desc_act=True),
    "gptq-int4-v2": lambda path: gptq(path, 4, -1, v2=True),
    "gptq-int8": lambda path: gptq(path, 8, -1),
    "awq-64": lambda path: awq(path, 64),
    "awq-128": lambda path: awq(path, 128),
}


@pytest.fixture
def make(make_model: Any) -> Callable[..., Path]:
    def made(dtype: torch.dtype = torch.float16, **sizes: Any) -> Path:
        path: Path = make_model(
            **{"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1} | sizes, dtype=dtype
        )
        return path

    return made


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float16) for name in READ), ("ct-int4-64", torch.bfloat16), ("ct-int8", torch.bfloat16)],
)
def test_values_grids_and_integers(name: str, dtype: torch.dtype, make: Any) -> None:
    path = make(dtype)
    integers = READ[name](path)
    checkpoint = Checkpoint.open(path)
    assert checkpoint.quantised and "quantization_config" not in checkpoint.config
    coverage = covered_linears_of(checkpoint)
    assert set(coverage.linears) == set(checkpoint.grids) == set(integers)
    for linear, expected in integers.items():
        grid, weight = checkpoint.grids[linear], checkpoint.torch(f"{linear}.weight")
        int8 = "int8" in name or "int-quantized" in name
        assert grid.type.name == ("w8a8" if "w8a8" in name else "int8" if int8 else "int4")
        assert (linear in checkpoint.rounded_inputs) == ("w8a8" in name)
        np.testing.assert_array_equal(grid.integers(checkpoint.read(f"{linear}.weight")), expected.numpy())
        spread = torch.from_numpy(grid.scales).reshape(len(grid.scales), -1).to(dtype)
        product = expected.to(dtype) * spread.repeat_interleave(expected.shape[1] // spread.shape[1], 1)
        assert weight.dtype == dtype and torch.equal(weight, product)


@pytest.mark.parametrize("name", [name for name in READ if name.startswith("ct-")])
def test_the_library_reads_the_same(name: str, make: Any) -> None:
    """compressed-tensors and transformers dequantise to the very values of `Checkpoint`."""
    path = make()
    READ[name](path)
    theirs = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float16, quantization_config=CompressedTensorsConfig(dequantize=True)
    ).state_dict()
    ours = load_model(path, dtype=torch.float16).state_dict()
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[one], ours[one]) for one in ours)


def test_every_format_is_documented() -> None:
    page = (Path(__file__).parents[4] / "docs/howto/quantised-checkpoints.md").read_text()
    assert len(QUANTISATIONS) == 3
    for name, kind in QUANTISATIONS.items():
        assert f"| `{name}` |" in page and kind.summary


@pytest.mark.parametrize("zero_point", [False, True])
def test_awq_reads_as_compressed_tensors_converts_it(zero_point: bool, make: Any) -> None:
    """Weights with zero points have no grid: they are read in 16 bits."""
    path = make()
    integers = awq(path, 64, zero_point=zero_point)
    converted = AutoAWQConverter(group_size=64).process(load_file(path / "model.safetensors"))
    checkpoint = Checkpoint.open(path)
    assert checkpoint.quantised and bool(checkpoint.grids) != zero_point
    assert set(checkpoint.dequantised) == (
        {f"{linear}.weight" for linear in integers} if zero_point else set()
    )
    for linear, expected in integers.items():
        n, k = converted[f"{linear}.weight_shape"].tolist()
        stored = unpack_from_int32(converted[f"{linear}.weight_packed"], 4, torch.Size((n, k)))
        zeros = converted[f"{linear}.weight_zero_point"]
        zeros = unpack_from_int32(zeros, 4, torch.Size((n, k // 64)), packed_dim=0)
        assert len(zeros.unique()) == (16 if zero_point else 1)
        scales = converted[f"{linear}.weight_scale"]
        values = (stored - zeros.repeat_interleave(64, 1)).to(torch.float16) * scales.repeat_interleave(64, 1)
        assert torch.equal(checkpoint.torch(f"{linear}.weight"), values)
        if not zero_point:
            assert torch.equal(stored, expected) and not zeros.any()
            np.testing.assert_array_equal(scales.numpy(), checkpoint.grids[linear].scales)


def test_marlin_orders_the_scales_of_many_groups(make: Any) -> None:
    path = make(intermediate_size=512)
    before = load_file(path / "model.safetensors")[f"{_DOWN}.weight"]
    integers = marlin24(path, 4, 128)[_DOWN]
    checkpoint = Checkpoint.open(path)
    read, kept = checkpoint.torch(f"{_DOWN}.weight"), integers != 0
    assert torch.equal(read != 0, kept) and (integers.reshape(-1, 4) != 0).sum(-1).max() == 2
    assert (read - before)[kept].abs().max() <= before.abs().max() / 14 + 1e-4
    assert read_zeros(checkpoint, _DOWN).pattern is Pattern.TWO_FOUR


SPARSE = {
    "int8": lambda: scheme(8, None) | {"format": "int-quantized"},
    "w8a8": w8a8,
    "fp8": lambda: fp8(True),
}


@pytest.mark.parametrize("about", SPARSE)
@pytest.mark.parametrize("name", ["sparse-24-bitmask", "sparse-bitmask"])
def test_sparse_formats_hold_values_of_8_bits(name: str, about: str, make: Any) -> None:
    """The same weights are read from the dense and from the sparse form."""
    path = make()
    with edited_weights(path) as tensors:
        for linear in [one for one in tensors if "_proj.weight" in one]:
            groups = tensors[linear].reshape(-1, 4)
            kept = groups.scatter(-1, groups.abs().argsort(-1)[:, :2], 0)
            tensors[linear] = kept.reshape(tensors[linear].shape)
    compressed_tensors(path, SPARSE[about]())
    before = Checkpoint.open(path)
    weights = {
        f"{linear}.weight": before.torch(f"{linear}.weight") for linear in covered_linears_of(before).linears
    }
    rounded, grids = before.rounded_inputs, set(before.grids)
    sparse(path, name)
    checkpoint = Checkpoint.open(path)
    assert set(checkpoint.names()) == set(before.names()) and set(checkpoint.grids) == grids
    assert checkpoint.rounded_inputs == rounded and bool(rounded) == (about == "w8a8")
    assert all(torch.equal(checkpoint.torch(one), weight) for one, weight in weights.items())
    assert read_zeros(checkpoint, _DOWN).pattern is Pattern.TWO_FOUR


def fp8(dynamic: bool | None = None, **weights: Any) -> dict[str, Any]:
    """A scheme of fp8; dynamic: None for inputs of 16 bits."""
    about = _formats("float-quantized", scheme(8, None, type="float", **weights))
    inputs = {
        "num_bits": 8,
        "type": "float",
        "strategy": "token" if dynamic else "tensor",
        "dynamic": dynamic,
    }
    if dynamic is not None:
        about["config_groups"]["group_0"]["input_activations"] = inputs
    return about


@pytest.mark.parametrize("case", ["weights", "dynamic inputs", "static inputs", "one scale"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fp8_is_read_in_16_bits(case: str, dtype: torch.dtype, make: Any) -> None:
    """compressed-tensors makes the same values of it."""
    path = make(dtype)
    file, about = path / "model.safetensors", fp8({"dynamic inputs": True, "static inputs": False}.get(case))
    before = load_file(file)
    linears = [name.removesuffix(".weight") for name in before if "_proj.weight" in name]
    compressed_tensors(path, about)
    stored = load_file(file)
    if case == "static inputs":
        stored |= {f"{linear}.input_scale": torch.ones(1) for linear in linears}
    if case == "one scale":
        about["config_groups"]["group_0"]["weights"]["strategy"] = "tensor"
        edit_config(path, quantization_config=about)
        stored |= {f"{linear}.weight_scale": torch.tensor([0.01], dtype=dtype) for linear in linears}
    save_file(stored, file, {"format": "pt"})
    checkpoint = Checkpoint.open(path)
    assert checkpoint.quantised and not checkpoint.grids and not checkpoint.rounded_inputs
    assert set(checkpoint.names()) == set(before)
    assert set(checkpoint.dequantised) == {f"{linear}.weight" for linear in linears}
    library = BaseCompressor.get_value_from_registry("float-quantized")
    of = QuantizationScheme.model_validate(about["config_groups"]["group_0"])
    for linear in linears:
        parts = {name: stored[f"{linear}.{name}"] for name in ("weight", "weight_scale")}
        assert parts["weight"].dtype == torch.float8_e4m3fn
        read = checkpoint.torch(f"{linear}.weight")
        assert read.dtype == dtype and torch.equal(read, library.decompress(parts, of)["weight"])


def _edit_quantisation(path: Path, **changes: Any) -> None:
    about = json.loads((path / "config.json").read_text())["quantization_config"]
    edit_config(path, quantization_config=about | changes)


def _group(**changes: Any) -> dict[str, Any]:
    group: dict[str, Any] = scheme(4, 64)["config_groups"]["group_0"]
    weights = group["weights"] | changes.pop("weights", {})
    return {"config_groups": {"group_0": group | changes | {"weights": weights}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"quant_method": "bitsandbytes"},
        {"quant_method": 4},
        {"config_groups": {}},
        {"kv_cache_scheme": {"num_bits": 8}},
        {"transform_config": {"config_groups": {}}},
        {"sparsity_config": {"format": "sparse-other"}},
        {"format": "mxfp4-pack-quantized"},
        pytest.param(_group(input_activations={"num_bits": 8}), id="group_0.input_activations"),
        pytest.param(w8a8(dynamic=False), id="group_0.input_activations"),
        pytest.param(w8a8(strategy="tensor"), id="group_0.input_activations"),
        pytest.param(w8a8(symmetric=False), id="group_0.input_activations"),
        pytest.param(w8a8(type="float"), id="group_0.input_activations"),
        pytest.param(_group(output_activations={"num_bits": 8}), id="group_0.output_activations"),
        pytest.param(_group(weights={"type": "float", "num_bits": 8}), id="group_0.weights in"),
        pytest.param(_group(weights={"num_bits": 3}), id="group_0.weights in"),
        pytest.param({"config_groups": fp8(True, num_bits=4)["config_groups"]}, id="group_0.weights in"),
        pytest.param(_group(weights={"symmetric": False}), id="weights.symmetric"),
        pytest.param(_group(weights={"strategy": "block"}), id="weights.strategy"),
    ],
)
def test_unsupported_compressed_tensors_are_named(changes: dict[str, Any], make: Any) -> None:
    path = make()
    compressed_tensors(path, scheme(4, 64))
    _edit_quantisation(path, **changes)
    with refused() as found:
        Checkpoint.open(path)
    assert ("config_groups" if "config_groups" in changes else next(iter(changes))) in str(found.error)


@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (gptq, {"sym": False}),
        (gptq, {"bits": 3}),
        (gptq, {"checkpoint_format": "marlin"}),
        (gptq, {"checkpoint_format": "marlin_24"}),
        (gptq, {"dynamic": {"+:.*down.*": {"bits": 8}}}),
        (awq, {"bits": 3}),
        (awq, {"version": "gemv"}),
    ],
)
def test_other_settings_of_gptq_and_awq_are_named(write: Any, settings: dict[str, Any], make: Any) -> None:
    path = make()
    write(path, **({"bits": 4} if write is gptq else {}), group=64)
    _edit_quantisation(path, **settings)
    with refused() as found:
        Checkpoint.open(path)
    assert next(iter(settings)) in str(found.error)


def _change(path: Path, name: str, change: Change) -> None:
    with edited_weights(path) as tensors:
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed.contiguous()


def damaged(name: str, part: str, change: Change, linear: str = _Q) -> Callable[[Path], None]:
    """Writes a folder in which one tensor of a linear is changed, or left out where the change returns None."""

    def write(path: Path) -> None:
        READ[name](path)
        _change(path, f"{linear}.{part}", change)

    return write


def sparse_damaged(part: str, change: Change, linear: str = _Q) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        READ["ct-int-quantized"](path)
        sparse(path, "sparse-bitmask")
        _change(path, f"{linear}.{part}", change)

    return write


def without_zero_points(path: Path) -> None:
    awq(path, 64, zero_point=True)
    _change(path, f"{_Q}.qzeros", lambda _: None)


def stored_twice(path: Path) -> None:
    gptq(path, 4, 64)
    with edited_weights(path) as tensors:
        tensors[f"{_Q}.weight"] = torch.zeros(128, 128)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "scales missing": damaged("gptq-int4-64", "scales", lambda t: None),
    "scales of another shape": damaged("gptq-int4-64", "scales", lambda t: t[:1]),
    "zero points missing": damaged("gptq-int4-64", "qzeros", lambda t: None),
    "words of another type": damaged("gptq-int4-64", "qweight", lambda t: t.to(torch.int64)),
    "words of no matrix": damaged("gptq-int4-64", "qweight", lambda t: t[0]),
    "half the words": damaged("gptq-int4-64", "qweight", lambda t: t[: len(t) // 2]),
    "a group that is none": damaged("gptq-int4-64", "g_idx", lambda t: t + 1000),
    "a negative group": damaged("gptq-int4-64", "g_idx", lambda t: t - 1),
    "act-order": damaged("gptq-int4-64", "g_idx", lambda t: t.flip(0)),
    "words of a packed weight": damaged("ct-int4-64", "weight_packed", lambda t: t[:, :3]),
    "a packed shape": damaged("ct-int4-64", "weight_shape", lambda t: t * 0 + (1 << 40)),
    "a negative packed shape": damaged("ct-int4-64", "weight_shape", lambda t: -t),
    "packed scales missing": damaged("ct-int4-64", "weight_scale", lambda t: None),
    "packed scales of three axes": damaged("ct-int4-64", "weight_scale", lambda t: t[None]),
    "metadata of another shape": damaged("marlin-int4-128", "meta", lambda t: t[:1]),
    "metadata missing": damaged("marlin-int4-128", "meta", lambda t: None),
    "metadata of another type": damaged("marlin-int4-128", "meta", lambda t: t.to(torch.int32)),
    "words of marlin": damaged("marlin-int8", "weight_packed", lambda t: t[:, :-1]),
    "scales of marlin": damaged("marlin-int8", "scale_packed", lambda t: t.repeat(3, 1)),
    "a bitmask of another shape": sparse_damaged("bitmask", lambda t: t[:, :-1]),
    "a bitmask missing": sparse_damaged("bitmask", lambda t: None),
    "the shape of a bitmask": sparse_damaged("shape", lambda t: t + 1),
    "the shape of a bitmask missing": sparse_damaged("shape", lambda t: None),
    "sparse values of 16 bits": sparse_damaged("compressed", lambda t: t.half()),
    "sparse scales missing": sparse_damaged("weight_scale", lambda t: None),
    "scales alone": damaged("ct-int4-64", "weight_packed", lambda t: None),
    "words of AWQ": damaged("awq-64", "qweight", lambda t: t[:1]),
    "zero points of AWQ": damaged("awq-64", "qzeros", lambda t: t[:1]),
    "no zero points of AWQ": without_zero_points,
    "stored twice": stored_twice,
    "a config alone": lambda path: edit_config(
        path, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64}
    ),
    "scales for every 32 int4 weights": lambda path: compressed_tensors(path, scheme(4, 32)),
    "scales for every 32 int4 weights of AWQ": lambda path: awq(path, 32),
    "scales for every 64 int8 weights": lambda path: compressed_tensors(path, scheme(8, 64)),
    "scales for every 128 int8 weights": lambda path: gptq(path, 8, 128),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_folders_are_one_error(case: str, make: Any) -> None:
    path = make()
    HOSTILE[case](path)
    with refused():
        Checkpoint.open(path)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(damaged("gptq-int4-64", "qzeros", lambda t: t * 0, _DOWN), id="qzeros"),
        pytest.param(damaged("awq-64", "qzeros", lambda t: t + 1, _DOWN), id="qzeros"),
        pytest.param(damaged("gptq-int4-64", "scales", lambda t: t * float("nan"), _DOWN), id="scales"),
        pytest.param(damaged("ct-int8", "weight_scale", lambda t: t / 0, _DOWN), id="weight_scale"),
        pytest.param(sparse_damaged("compressed", lambda t: t[:-1], _DOWN), id="bitmask"),
        pytest.param(damaged("marlin-int8", "meta", lambda t: t * 0, _DOWN), id="meta"),
        pytest.param(damaged("marlin-int8", "scale_packed", lambda t: t / 0, _DOWN), id="scale_packed"),
        pytest.param(damaged("ct-naive-int4", "weight", lambda t: t + 100, _DOWN), id="weight"),
        pytest.param(
            damaged("ct-int4-64", "weight_scale", lambda t: t.float() * 1.0001, _DOWN), id="weight_scale"
        ),
    ],
)
def test_damaged_numbers_are_one_error(write: Callable[[Path], None], make: Any) -> None:
    path = make()
    write(path)
    with refused():
        Checkpoint.open(path).read(f"{_DOWN}.weight")


def test_trivial_zero_points_and_indices_are_read(make: Any) -> None:
    """Early versions of compressed-tensors stored both with symmetric weights."""
    path = make()
    integers = compressed_tensors(path, scheme(4, 64))
    with edited_weights(path) as tensors:
        for linear, one in integers.items():
            zeros = torch.zeros_like(tensors[f"{linear}.weight_scale"])
            tensors[f"{linear}.weight_zero_point"] = zeros.to(torch.int8)
            tensors[f"{linear}.weight_g_idx"] = torch.arange(one.shape[1], dtype=torch.int32) // 64
    checkpoint = Checkpoint.open(path)
    assert not any(name.endswith(("zero_point", "g_idx")) for name in checkpoint.names())
    np.testing.assert_array_equal(
        checkpoint.grids[_Q].integers(checkpoint.read(f"{_Q}.weight")), integers[_Q].numpy()
    )


def test_float32_scales_give_values_of_model_type(make: Any) -> None:
    path = make(torch.bfloat16)
    integers = compressed_tensors(path, scheme(8, None))
    _change(path, f"{_Q}.weight_scale", lambda scale: scale.float() * 1.0001)
    checkpoint = Checkpoint.open(path)
    weight = checkpoint.torch(f"{_Q}.weight")
    scale = load_file(path / "model.safetensors")[f"{_Q}.weight_scale"]
    assert torch.equal(weight, (integers[_Q].float() * scale).bfloat16())


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_may_have_one_scale(shape: tuple[int, ...], make: Any) -> None:
    path = make()
    integers = compressed_tensors(path, scheme(8, None))
    file = path / "config.json"
    file.write_text(file.read_text().replace('"channel"', '"tensor"'))
    for linear in integers:
        _change(path, f"{linear}.weight_scale", lambda scale: scale.flatten()[:1].reshape(shape))
    weight = Checkpoint.open(path).torch(f"{_Q}.weight")
    scale = load_file(path / "model.safetensors")[f"{_Q}.weight_scale"]
    assert scale.shape == shape and torch.equal(weight, integers[_Q].half() * scale)


def test_transposed_models_are_refused(make_model: Any) -> None:
    path = make_model("gpt2")
    with edited_weights(path) as tensors:
        name = next(name for name in tensors if name.endswith("h.0.attn.c_proj.weight"))
        tensors[f"{name}_scale"] = torch.ones(len(tensors[name]), 1)
        tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.int8)
    edit_config(path, quantization_config=_formats("naive-quantized", scheme(8, None)))
    with refused():
        covered_linears_of(Checkpoint.open(path))


@pytest.mark.parametrize("settings", [{"dynamic": {"-:.*gate_proj": {}}}, {"bits": 3}])
def test_a_config_that_does_not_tell_its_types_is_refused(settings: dict[str, Any], make: Any) -> None:
    path = make()
    gptq(path, 4, 64)
    (path / "model.safetensors").unlink()
    _edit_quantisation(path, **settings)
    with refused():
        describe_checkpoint(path)
