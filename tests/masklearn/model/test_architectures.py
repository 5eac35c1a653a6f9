import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from masklearn.model.architectures import longest_window
from masklearn.model.coverage import covered_linears
from masklearn.model.known_architectures import ARCHITECTURES
from masklearn.model.models import auto_class
from tests.conftest import ModelMaker
from tests.families import FAMILIES, MIXTURES, RENAMED, UNEXPORTABLE
from tests.masklearn.model.test_structure import REFUSED
from tests.refusals import refused


def test_the_longest_window_fits_the_model(make_model: ModelMaker) -> None:
    for model_type, expected in (
        ("gpt2", 64),
        ("opt", 64),
        ("bert", 64),
        ("roberta", 62),
        ("distilbert", 64),
        ("mpnet", 62),
    ):
        path = make_model(model_type)
        whole = auto_class(ARCHITECTURES[model_type]).from_pretrained(path).eval()
        length = longest_window(ARCHITECTURES[model_type], whole.config)
        assert length == expected
        whole(torch.full((1, expected), 5))
        with pytest.raises((IndexError, RuntimeError)):
            whole(torch.full((1, expected + 1), 5))
    assert longest_window(ARCHITECTURES["llama"], whole.config) is None


def test_fused_experts_are_refused_in_words(make_model: ModelMaker, tmp_path: Path) -> None:
    """transformers fuses experts in memory, so a checkpoint may hold them fused."""
    path = make_model("qwen3_moe")
    whole = AutoModelForCausalLM.from_pretrained(path)
    tensors = {name: tensor.clone().contiguous() for name, tensor in whole.state_dict().items()}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with refused():
        covered_linears(path)


PAGE = (Path(__file__).parents[3] / "docs/reference/architectures.md").read_text()


def named(title: str) -> set[str]:
    """Types that a section names."""
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return {name for name in re.findall(r"`([\w-]+)`", part) if not name.startswith("--")}


def test_every_row_is_listed() -> None:
    listed = PAGE.split("known_architectures.py`:\n\n")[1].split("\n\n")[0]
    assert re.findall(r"`([\w-]+)`", listed) == list(ARCHITECTURES)


def test_every_tested_family_is_listed() -> None:
    families = set(FAMILIES) - set(UNEXPORTABLE)
    listed = PAGE.split("(`make mutate`):\n\n")[1].split("\n\n")[0]
    assert re.findall(r"`([\w-]+)`", listed) == sorted(families)
    assert set(MIXTURES) - set(UNEXPORTABLE) <= named("Mixtures of experts")


def test_every_refusal_that_is_tested_is_listed() -> None:
    assert named("Refused") >= {*REFUSED, *RENAMED, *UNEXPORTABLE} - {"vit"}
