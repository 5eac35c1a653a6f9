"""A checkpoint of every architecture gets masks and becomes a pruned checkpoint that transformers loads."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from masklearn.learning import Learned
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.linears import linear_modules
from masklearn.model.models import auto_class
from masklearn.stream.moments import weighted_moments
from tests.masklearn.architectures import every
from tests.masklearn.conftest import Tiny

SETTINGS = {"tile": (32, 32), "ratio": 0.3}


@pytest.mark.parametrize("model_type", every())
def test_a_pruned_checkpoint_has_the_masked_weights(make_model, tiny: Tiny, model_type: str) -> None:
    path = make_model(model_type, shard="60KB", dtype=torch.float16)
    result = tiny.learn(path, method="wanda")
    masks, pruned = result.masks, tiny.prune(result).path
    masks.check_covers(covered_linears(path).linears)
    assert abs(masks.ratio - 0.3) * masks.weights < 32 * 32
    assert masked_weights(auto_class(ARCHITECTURES[model_type]), path, pruned, result) == masks.zeroed > 0


@pytest.mark.parametrize("model_type", every())
def test_every_block_gives_its_tokens_weights(make_model, tiny: Tiny, model_type, monkeypatch) -> None:
    asked, found = set[str](), set[str]()

    def watched(linears: Any, block: Any, moments: Any, groups: Any, store: Path) -> dict[str, Any]:
        asked.update(names[0] for names in groups)
        weighted = weighted_moments(linears, block, moments, groups, store)
        whole = {name: moment() for name, moment in weighted.items()}
        found.update(name for name, one in whole.items() if bool(one.isfinite().all()))
        return {name: partial(torch.clone, one) for name, one in whole.items()}

    monkeypatch.setattr("masklearn.stream.feed.weighted_moments", watched)
    masks = tiny.learn(make_model(model_type), method="sparsegpt", weights="int8").masks
    assert asked == found and len(found) >= len(masks) / 8
    assert set(masks.grids) == set(masks)


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
