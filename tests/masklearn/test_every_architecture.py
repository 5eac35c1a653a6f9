"""A checkpoint of every architecture gets masks and becomes a pruned checkpoint that transformers loads."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from masklearn.learning import Learned, learn
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.linears import linear_modules
from masklearn.model.models import auto_class
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.recipe import LearnRecipe
from masklearn.stream.moments import weighted_moments
from tests.masklearn.architectures import every


def learned(path: Path, text_file: Path, tmp_path: Path, **settings: Any) -> Learned:
    recipe = LearnRecipe(
        calib=str(text_file), windows=4, length=16, tile=(32, 32), ratio=0.3, repair="none", **settings
    )
    return learn(path, recipe, tmp_path / "scratch")


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("model_type", every())
def test_masks_meet_the_ratio_and_the_model(make_model, text_file, tmp_path, model_type, method) -> None:
    path = make_model(model_type)
    masks = learned(path, text_file, tmp_path, method=method).masks
    masks.check_covers(covered_linears(path).linears)
    assert abs(masks.ratio - 0.3) * masks.weights < 32 * 32


@pytest.mark.parametrize("model_type", every())
def test_a_pruned_checkpoint_has_the_masked_weights(make_model, text_file, tmp_path, model_type: str) -> None:
    path = make_model(model_type, shard="60KB", dtype=torch.float16)
    result = learned(path, text_file, tmp_path, method="magnitude")
    write_pruned_checkpoint(result.checkpoint, result.masks, tmp_path / "pruned")
    loader = auto_class(ARCHITECTURES[model_type])
    assert masked_weights(loader, path, tmp_path / "pruned", result) == result.masks.zeroed > 0


@pytest.mark.parametrize("model_type", every())
def test_every_block_gives_its_tokens_weights(
    make_model, text_file, tmp_path, model_type, monkeypatch
) -> None:
    asked, found = set[str](), set[str]()

    def watched(linears: Any, block: Any, moments: Any, groups: Any, store: Path) -> dict[str, Any]:
        asked.update(names[0] for names in groups)
        weighted = weighted_moments(linears, block, moments, groups, store)
        whole = {name: moment() for name, moment in weighted.items()}
        found.update(name for name, one in whole.items() if bool(one.isfinite().all()))
        return {name: partial(torch.clone, one) for name, one in whole.items()}

    monkeypatch.setattr("masklearn.stream.feed.weighted_moments", watched)
    masks = learned(make_model(model_type), text_file, tmp_path, method="sparsegpt", weights="int8").masks
    assert asked == found and len(found) >= len(masks) / 8
    assert set(masks.grids) == set(masks)


@pytest.mark.parametrize(
    ("model_type", "loader"), [("gpt2", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)]
)
def test_a_checkpoint_with_other_names(make_model, text_file, tmp_path, model_type, loader) -> None:
    """GPT-2 has no prefix, as its authors publish it; BERT has a prefix, below a head."""
    source, path = make_model(model_type, tie_word_embeddings=True), tmp_path / "other"
    whole = loader.from_pretrained(source)
    (whole.base_model if model_type == "gpt2" else whole).save_pretrained(path)
    for file in source.glob("tokenizer*"):
        (path / file.name).write_bytes(file.read_bytes())
    result = learned(path, text_file, tmp_path, method="wanda")
    assert next(iter(result.masks)).startswith("h.0." if model_type == "gpt2" else "bert.encoder.layer.0.")
    write_pruned_checkpoint(result.checkpoint, result.masks, tmp_path / "pruned")
    assert masked_weights(loader, path, tmp_path / "pruned", result) == result.masks.zeroed > 0


def masked_weights(loader: Any, path: Path, pruned: Path, result: Learned) -> int:
    """Check that the model only lost the weights that the masks zero; returns their number."""
    checkpoint = Checkpoint.open(path)
    before, after = (loader.from_pretrained(model, dtype=torch.float32) for model in (path, pruned))
    linears = {id(m.weight): name for name, m in linear_modules(before, checkpoint).items()}
    linear_modules(after, checkpoint)
    parameters = dict(after.named_parameters())
    masked = 0
    for name, weight in before.named_parameters():
        linear = linears.get(id(weight))
        if linear in result.masks:
            keep = torch.from_numpy(result.masks[linear].keep())
            masked += int((~keep).sum())
            assert torch.equal(parameters[name], torch.where(keep, weight, 0.0)), name
        else:
            assert torch.equal(parameters[name], weight), name
    return masked
