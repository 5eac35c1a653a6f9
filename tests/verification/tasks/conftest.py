"""A tiny build, made once, and tasks as a user writes them, in words that its tokenizer knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from patch_compile.artifacts.folder import OutFolder
from tests.builds import TINY, build
from tests.conftest import WORDS, texts_in, write_model

_TASKS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
    },
    "follow": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{' ' + choices[0]}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "roll": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"max_gen_toks": 6, "until": ["mat"]},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_task(folder: Path, name: str, **settings: Any) -> None:
    task = {"task": name, "dataset_path": "json", "test_split": "test", **settings}
    task.setdefault("dataset_kwargs", {"data_files": {"test": "items.jsonl"}})
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the tasks choose, follow, roll and write, one per kind of request, on 12 items of 4 to 40 words."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(5)

    def some(count: int) -> str:
        return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), count))

    items = [
        {"text": some(4 + 3 * i), "choices": [some(1 + j % 2) for j in range(4)], "answer": i % 4}
        for i in range(12)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    for name, settings in _TASKS.items():
        write_task(folder, name, **settings)
    return folder


@pytest.fixture(scope="session")
def tiny_out(tmp_path_factory: pytest.TempPathFactory) -> OutFolder:
    """OUT of a tiny model that reaches 32 tokens and whose tokenizer has a chat template."""
    root = tmp_path_factory.mktemp("tiny")
    model = write_model(root / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"eos_token": "low"})
    tokenizer.chat_template = "{% for m in messages %}cat {{ m.content }} dog{% endfor %}"
    tokenizer.save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    build({"model": model, "out": root / "out", "ratio": 0.4, **texts_in(root), **TINY})
    return OutFolder.open(root / "out")
