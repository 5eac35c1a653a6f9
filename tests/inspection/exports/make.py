"""Writes exports of 2:4 models by other packages, which test_exports.py diagnoses, into this folder.

    pip install nvidia-modelopt llmcompressor
    python tests/inspection/exports/make.py

The packages are no dependency: they bind other versions of transformers. The files in the repository are by
nvidia-modelopt 0.47.0 and llmcompressor 0.14.0.1 (2026-12-03).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import modelopt.torch.quantization as mtq
import modelopt.torch.sparsity as mts
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent


def write_modelopt(name: str) -> None:
    """An ONNX file: 2:4 by magnitude, and int8 Q/DQ with static scales."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    x = torch.randn(64, 64)
    model = mtq.quantize(mts.sparsify(model, "sparse_magnitude"), mtq.INT8_DEFAULT_CFG, lambda own: own(x))
    torch.onnx.export(
        model, (x,), str(HERE / name), dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
    )


def write_llmcompressor(name: str, scheme: str) -> None:
    """A folder: 2:4 by SparseGPT, then quantised in the scheme."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=32, hidden_size=128, intermediate_size=128, num_hidden_layers=1, **heads)
    ids = torch.randint(0, 32, (8, 32)).tolist()
    recipe = [
        SparseGPTModifier(sparsity=0.5, mask_structure="2:4", targets=[r"re:.*layers.*proj$"]),
        QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"]),
    ]
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 32] * 8})
    words = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    processor = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="a")
    asked = {"num_calibration_samples": 8, "max_seq_length": 32, "output_dir": str(HERE / name)}
    with TemporaryDirectory() as folder:
        LlamaForCausalLM(config).half().save_pretrained(folder)
        model = LlamaForCausalLM.from_pretrained(folder)
        oneshot(model=model, processor=processor, dataset=data, recipe=recipe, **asked)
    for file in (HERE / name).iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()


write_modelopt("modelopt-int8.onnx")
for scheme in ("W8A8", "W4A16", "FP8_DYNAMIC"):
    write_llmcompressor(f"llmcompressor-{scheme.lower().replace('_', '-')}", scheme)
