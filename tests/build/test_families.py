"""Decoders without a row, and mixtures of experts, are learned, compiled and proven in one build."""

from pathlib import Path
from typing import Any

import pytest

from masklearn.masks.maskset import MaskSet
from patch_compile.errors import PatchCompileError
from tests.builds import build
from tests.families import write_family

_IN_EVERY_RUN = ("cohere2", "mixtral")
_OTHERS = ("bloom", "gpt_oss", "granite", "olmo2", "olmoe", "qwen2_moe")


@pytest.mark.parametrize(
    "name", [*_IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.families) for name in _OTHERS)]
)
def test_a_family_builds_and_agrees_with_transformers(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = write_family(tmp_path / "model", name, num_hidden_layers=2)
    report = build(settings | {"model": model})
    assert 0 < report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    masks = MaskSet.load(tmp_path / "out" / "masks.safetensors")
    assert masks.zeroed > 0 and not any(".experts." in linear for linear in masks)


def test_a_model_that_is_not_as_the_others_is_refused_before_any_work(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("modernbert-decoder", hidden_size=64, num_attention_heads=4).save_pretrained(
        tmp_path / "model"
    )
    (settings["model"] / "config.json").write_bytes((tmp_path / "model" / "config.json").read_bytes())
    with pytest.raises(PatchCompileError, match=r"'modernbert-decoder' of .* Its logits are not what"):
        build(settings)
    assert not settings["out"].exists()
