"""The folder of OUT's ONNX file is a model of onnxruntime-genai: the real library loads it and generates."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import AutoTokenizer

from masklearn.model.folder import copy_tokenizer
from patch_compile import open_generator
from patch_compile.artifacts.layout import GENAI_CONFIG_NAME, ONNX_FOLDER
from patch_compile.sources.checkpoint.genai import write_genai
from patch_compile.verification.graph_outputs import with_all_logits
from tests.runtime.conftest import OutOf

og = pytest.importorskip("onnxruntime_genai")
NEW = 20


@pytest.fixture
def copied(out_of: OutOf, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the model and of the ONNX file of a build."""
    shutil.copytree(out_of("llama"), tmp_path, dirs_exist_ok=True)
    return tmp_path / "model", tmp_path / ONNX_FOLDER / "model.onnx"


def generated(folder: Path, prompt: list[int], **search: Any) -> list[int]:
    """Returns the tokens that onnxruntime-genai adds to a prompt."""
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + NEW, **search)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_genai_generates_the_same_tokens(out_of: OutOf, kind: str) -> None:
    """mistral's window is shorter than the text, so the graph's own mask has to hold."""
    ours = open_generator(out_of(kind))
    for text in ("the cat sat on a mat", "big red"):
        prompt = ours.encode(text)
        (expected,) = ours.generate([prompt], new_tokens=NEW)
        found = generated(out_of(kind) / ONNX_FOLDER, prompt)
        *words, last = expected.tokens  # onnxruntime-genai leaves the end token out
        assert found == (words if last in ours.end_tokens else expected.tokens)


@pytest.mark.parametrize(("logits", "right"), [("all", True), ("last", False)])
def test_prompts_of_several_lengths_in_one_batch(logits: str, right: bool, copied: tuple[Path, Path]) -> None:
    """onnxruntime-genai pads on the right and reads the logits of each prompt's last token, if the graph has them."""
    _, file = copied
    prompts = [[3, 4, 5, 6, 7, 8, 9], [10, 11]]
    alone = [generated(file.parent, prompt) for prompt in prompts]
    with with_all_logits(file) if logits == "all" else nullcontext(file) as graph:
        settings = file.parent / GENAI_CONFIG_NAME
        written = json.loads(settings.read_text())
        written["model"]["decoder"]["filename"] = graph.name
        settings.write_text(json.dumps(written))
        found = generated_together(file.parent, prompts, written["model"]["pad_token_id"])
    assert all(row[: len(one)] == one for row, one in zip(found, alone, strict=True)) is right


def generated_together(folder: Path, prompts: list[list[int]], padding: int) -> list[list[int]]:
    """Returns the tokens that onnxruntime-genai adds to each of several prompts, padded on the right."""
    model, longest = og.Model(str(folder)), max(map(len, prompts))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=longest + NEW, batch_size=len(prompts))
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.array([one + [padding] * (longest - len(one)) for one in prompts], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [[int(token) for token in generator.get_sequence(row)][longest:] for row in range(len(prompts))]


def test_sampling_settings_and_text_ends_hold(copied: tuple[Path, Path]) -> None:
    model, file = copied
    settings = {"do_sample": True, "temperature": 0.6, "top_k": 7, "eos_token_id": [2, 5], "bos_token_id": 3}
    (model / "generation_config.json").write_text(json.dumps(settings))
    write_genai(model, file)
    written = json.loads((file.parent / GENAI_CONFIG_NAME).read_text())
    assert written["model"]["eos_token_id"] == [2, 5] and written["model"]["bos_token_id"] == 3
    assert written["model"]["context_length"] == written["search"]["max_length"] == 96
    sampled = {name: written["search"][name] for name in ("do_sample", "temperature", "top_k", "top_p")}
    assert sampled == {"do_sample": True, "temperature": 0.6, "top_k": 7, "top_p": 1.0}
    assert len(generated(file.parent, [3, 4], do_sample=False)) > 0


def test_a_model_without_configured_end_asks_its_tokenizer(copied: tuple[Path, Path]) -> None:
    model, file = copied
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"eos_token_id": None, "pad_token_id": None}))
    (model / "generation_config.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = "cat"
    tokenizer.save_pretrained(model)
    write_genai(model, file)
    written = json.loads((file.parent / GENAI_CONFIG_NAME).read_text())["model"]
    assert written["eos_token_id"] == written["pad_token_id"] == tokenizer.convert_tokens_to_ids("cat")


def test_caches_of_several_sizes_get_no_config(copied: tuple[Path, Path]) -> None:
    """onnxruntime-genai makes all caches of one size."""
    model, file = copied
    config = file.with_name(GENAI_CONFIG_NAME)
    config.unlink()
    graph = onnx.load(file, load_external_data=False)
    (value,) = (one for one in graph.graph.input if one.name == "past_key_values.1.value")
    value.type.tensor_type.shape.dim[3].dim_value += 1
    file.write_bytes(graph.SerializeToString())
    write_genai(model, file)
    assert not config.exists()


@pytest.mark.model
def test_genai_reads_the_tokenizer(out_of: OutOf, sample_model: Path, tmp_path: Path) -> None:
    """onnxruntime-genai cannot read the tiny models' kind of tokenizer, but the sample model's."""
    folder = shutil.copytree(out_of("llama") / ONNX_FOLDER, tmp_path / ONNX_FOLDER)
    assert copy_tokenizer(sample_model, folder)
    tokenizer = og.Tokenizer(og.Model(str(folder)))
    expected = AutoTokenizer.from_pretrained(sample_model)
    for text in ("The capital of France is", "  two  spaces,\n\ta tab, naïve ☃ and 1234"):
        ids = [int(token) for token in tokenizer.encode(text)]
        assert ids == expected(text)["input_ids"] and tokenizer.decode(ids) == text
