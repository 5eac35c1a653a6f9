"""Prunes a model 2:4 with another tool, in that tool's environment: TOOL MODEL_DIR WINDOWS.npy OUT_DIR.

Imports nothing of this project. Exit code 3 when the tool is not installed.
"""

import importlib.metadata
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def prune_by_modelopt(model: torch.nn.Module, windows: torch.Tensor) -> torch.nn.Module:
    """Prune by NVIDIA ModelOpt's `sparsegpt`."""
    import modelopt.torch.sparsity as mts

    rule = {"nn.Linear": {"*": {}, "*lm_head*": None}}
    config = {"data_loader": windows.split(1), "collect_func": lambda ids: ids}
    return mts.export(mts.sparsify(model, mode=[("sparsegpt", rule)], config=config))


def prune_by_llmcompressor(model: torch.nn.Module, windows: torch.Tensor) -> torch.nn.Module:
    """Prune by llm-compressor's `SparseGPTModifier`."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier

    text = Dataset.from_dict(
        {"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()}
    )
    modifier = SparseGPTModifier(
        sparsity=0.5, mask_structure="2:4", targets=["Linear"], ignore=["re:.*lm_head"]
    )
    oneshot(
        model=model,
        dataset=text,
        recipe=modifier,
        num_calibration_samples=len(windows),
        max_seq_length=windows.shape[1],
        shuffle_calibration_samples=False,
    )
    return model


_TOOLS = {
    "modelopt": ("nvidia-modelopt", prune_by_modelopt),
    "llmcompressor": ("llmcompressor", prune_by_llmcompressor),
}


def main(tool: str, model_dir: str, windows: str, out: str) -> None:
    """Prune, and store weights in the checkpoint's type."""
    if importlib.util.find_spec(tool) is None:
        sys.exit(3)
    package, prune = _TOOLS[tool]
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, trust_remote_code=False
    ).eval()
    start = time.perf_counter()
    pruned = prune(model, torch.from_numpy(np.load(windows)))
    seconds = time.perf_counter() - start
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto", trust_remote_code=False)
    weights = pruned.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    plain.save_pretrained(out)
    about = {"version": importlib.metadata.version(package), "seconds": round(seconds, 1)}
    (Path(out) / "peer.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
