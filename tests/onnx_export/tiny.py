"""Tiny random checkpoints of every covered architecture, and their exports on ONNX Runtime, compared with transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import auto_class
from patch_compile.onnx_export import export_model
from patch_compile.onnx_io.write import bind_weights, write_onnx
from patch_compile.passes import cleanup_passes, run_passes

LAYERS = 2
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    # Ten times the usual spread makes attention far from uniform, so that a wrong mask or rotation shows.
    "initializer_range": 0.2,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_TOKENS = {
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 1,
}  # some architectures' defaults lie outside the vocabulary
_OWN_HEADS: dict[str, Any] = _TOKENS | {"num_key_value_heads": 4}  # one key and value head per query head
_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
}
_GEMMA: dict[str, Any] = _TOKENS | {
    "sliding_window": 6,
    "query_pre_attn_scalar": 24,
    "layer_types": ["sliding_attention", "full_attention"],
}
# windows are shorter than the tests' sequences
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama-of-four": ("llama", {"tie_word_embeddings": False, "num_hidden_layers": 4}),  # the last is a copy
    "llama-tied-yarn": ("llama", {"tie_word_embeddings": True, "rope_parameters": _YARN}),
    "mistral-window": ("mistral", {"sliding_window": 6}),
    "qwen2-mixed": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", _TOKENS),
    "gemma2": ("gemma2", _GEMMA | {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0}),
    "gemma3_text": ("gemma3_text", _GEMMA | {"rope_parameters": _GEMMA3_ROPE}),
    "phi3": ("phi3", _TOKENS | {"sliding_window": 6, "rope_parameters": _PARTIAL_ROPE}),
    "gpt2": ("gpt2", _OWN_HEADS),
    "opt": ("opt", _OWN_HEADS | {"ffn_dim": 96, "word_embed_proj_dim": 32}),
    "gpt_neox": ("gpt_neox", _OWN_HEADS | {"rope_parameters": _PARTIAL_ROPE}),
}
# encoders have no cache, and `pooler_output` when the model has a pooler
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _TOKENS | {"num_hidden_layers": 4}),  # the last is a copy
    "roberta": ("roberta", _TOKENS | {"type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", _TOKENS | {"type_vocab_size": 1}),
    "distilbert": ("distilbert", _TOKENS | {"dim": 64, "hidden_dim": 96, "n_layers": LAYERS, "n_heads": 4}),
    "mpnet": ("mpnet", _TOKENS),
}


def save_tiny(variant: str, path: Path, **changes: Any) -> Path:
    """Save a random fp32 model of `variant` at `path`."""
    from transformers import AutoConfig

    kind, settings = (VARIANTS | ENCODERS)[variant]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(_SIZES | settings | changes))
    return _save(auto_class(ARCHITECTURES[kind]).from_config(config, dtype=torch.float32), path)


def save_gemma3(path: Path) -> Path:
    """Save a random Gemma 3 with a vision tower, its text model of two layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    text = _SIZES | _GEMMA
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        tie_word_embeddings=True,
    )
    return _save(AutoModelForCausalLM.from_config(config, dtype=torch.float32), path)


def _save(model: Any, path: Path) -> Path:
    for parameter in model.parameters():
        # Biases start at 0 and norms at 1, so that dropping either would go unnoticed.
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return path


class Exports:
    """Checkpoints and exported graphs of the variants. Each is made once, because tracing takes seconds."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._graphs: dict[tuple[str, tuple[tuple[str, Any], ...]], ir.Model] = {}

    def model_dir(self, variant: str) -> Path:
        """Folder of the checkpoint."""
        path = self._root / variant
        return path if path.exists() else save_tiny(variant, path)

    def raw(self, variant: str, **options: Any) -> ir.Model:
        """A copy of the exported graph, in fp16 unless `dtype` is given."""
        key = (variant, tuple(sorted(options.items())))
        if key not in self._graphs:
            settings = {"dtype": "float16"} | options
            self._graphs[key] = export_model(self.model_dir(variant), **settings)
        return self._graphs[key].clone()

    def graph(self, variant: str, **options: Any) -> ir.Model:
        """A copy of the graph after the cleanup passes."""
        return run_passes(self.raw(variant, **options), cleanup_passes())

    def bound(self, variant: str, **options: Any) -> ir.Model:
        """A cleaned-up copy with the checkpoint's weights."""
        model = self.graph(variant, **options)
        dtype = ir.DataType[options.get("dtype", "float16").upper()]
        bind_weights(model, Checkpoint.open(self.model_dir(variant)), dtype)
        return model

    def write(self, path: Path, variant: str, **options: Any) -> Path:
        """Write the bound graph."""
        write_onnx(self.bound(variant, **options), path)
        return path


class OrtDecoder:
    """A decoder on ONNX Runtime that keeps its cache between steps.

    others: for each step since the start, the outputs of the graph behind logits and cache.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._past = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values.")]
        self._cache: list[np.ndarray] = []
        self.others: list[list[np.ndarray]] = []
        self._mask = np.zeros((0, 0), np.int64)

    def start(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Prefill `ids` [batch, sequence] from an empty cache and return fp32 logits."""
        kind = np.float32 if self._past[0].type == "tensor(float)" else np.float16
        self._cache = [np.zeros((len(ids), i.shape[1], 0, i.shape[3]), kind) for i in self._past]
        self._mask, self.others = mask, []
        return self._run(ids, np.maximum(np.cumsum(mask, axis=1) - 1, 0))

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Continue by one token `ids` [batch, 1]."""
        self._mask = np.concatenate([self._mask, np.ones_like(ids)], axis=1)
        return self._run(ids, self._mask.sum(axis=1, keepdims=True) - 1)

    def _run(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        cache = {i.name: t for i, t in zip(self._past, self._cache, strict=True)}
        feed = {"input_ids": ids, "attention_mask": self._mask, "position_ids": positions, **cache}
        logits, *rest = self.session.run(None, feed)
        self._cache = rest[: len(self._past)]
        self.others.append(rest[len(self._past) :])
        return logits.astype(np.float32)


class Reference:
    """transformers' model in fp32, with weights rounded like the graph's, for one unpadded row at a time."""

    def __init__(self, model_dir: Path, dtype: torch.dtype = torch.float16) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        for parameter in self.model.parameters():  # .half() would round the rotary frequencies too
            parameter.data = parameter.data.to(dtype).float()

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits [len(tokens), vocab]."""
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([list(tokens)])).logits[0].numpy()


def tolerance(reference: np.ndarray, layers: int, unit_roundoff: float) -> float:
    """Four times the expected rounding error of a 16-bit run.

    A layer rounds about 20 results in a row (norms 2·2, linears 4, rotary 3, attention 3, SiLU and its product 3,
    residuals 2, cache 1). Each errs by at most `unit_roundoff` relative to values of the residual's scale, and the
    squares of independent errors add up.
    """
    return 4 * float(np.sqrt(20 * layers)) * unit_roundoff * float(np.abs(reference).max())
