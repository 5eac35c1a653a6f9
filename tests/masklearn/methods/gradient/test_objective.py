import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM

from masklearn.choice.select import select
from masklearn.masks.tiles import tile_weights
from masklearn.methods.base import Candidate
from masklearn.methods.gradient.learner import DensityTarget, MaskObjective, density_excess
from masklearn.methods.gradient.parametrization import (
    PRIOR_LOGIT,
    Drawing,
    HybridMask,
    Sums,
    candidate_from_logits,
    first_pattern_logits,
    first_tile_logits,
)
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.methods.trained import MaskLlm, PatchJoint, PatchTile
from tests.conftest import ModelMaker

JOINT, TILE, MASKLLM = PatchJoint.settings, PatchTile.settings, MaskLlm.settings


def sums(sparse: float, energy: float = 1.0) -> Sums:
    return Sums(torch.tensor(sparse), torch.tensor(energy))


def test_density_targets_are_global_or_by_share() -> None:
    """40 of 100 and 60 of 300 weights lie in sparse tiles, so 20 and 30 are zeroed."""
    record = {0: sums(40.0), 1: sums(60.0)}
    together = [DensityTarget([0, 1], 400, 0.4 * 400)]
    assert float(density_excess(together, record)) == pytest.approx(abs(50 / 400 - 0.4))
    apart = [DensityTarget([0], 100, 50.0), DensityTarget([1], 300, 0.0)]
    assert float(density_excess(apart, record)) == pytest.approx((30 + 30) / 400)


def masked_model(path, drawing: Drawing) -> tuple[nn.Module, list[HybridMask], float]:
    """A model in which every linear of the blocks has a random mask."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    masks, energy = [], 0.0
    torch.manual_seed(0)
    for linear in [m for _, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)]:
        shape = (linear.out_features, linear.in_features)
        codes = torch.randint(6, (shape[0], shape[1] // 4), dtype=torch.uint8)
        tiles = torch.randn(-(-shape[0] // 32), -(-shape[1] // 32)) * 0.05
        logits = first_pattern_logits(codes)
        mask = HybridMask(drawing, len(masks), shape, (32, 32), tile_logits=tiles, pattern_logits=logits)
        energy += float(linear.weight.detach().double().square().sum())
        parametrize.register_parametrization(linear, "weight", mask)
        masks.append(mask)
    return model, masks, math.sqrt(energy)


def test_loss_is_the_papers(make_model: ModelMaker) -> None:
    """Each term is computed again from the model's logits under the same draw."""
    drawing = Drawing(0)
    model, masks, norm = masked_model(make_model(), drawing)
    weights = sum(mask.shape[0] * mask.shape[1] for mask in masks)
    target = DensityTarget(range(len(masks)), weights, 0.35 * weights)
    objective = MaskObjective(JOINT, drawing, masks, [target], ratio=0.35, norm=norm, tile_rate=0.1)
    objective.begin(3, 0.25)
    assert drawing.temperature == pytest.approx(2.0 + 0.25 * (0.05 - 2.0))
    assert (drawing.tile_scale, drawing.pattern_scale, drawing.step) == (106.25, 200.0, 3)
    ids = torch.randint(40, (2, 12))
    loss, figures = objective.loss(model, ids)
    assert drawing.record is None and drawing.masked  # nothing is recorded outside of the loss

    with torch.no_grad():
        student = model(ids).logits[:, :-1].flatten(0, 1).log_softmax(-1)
        drawing.masked = False
        dense = model(ids).logits[:, :-1].flatten(0, 1).log_softmax(-1)
        drawing.masked, drawing.record = True, {}
        masked = [module.weight for module in model.modules() if hasattr(module, "parametrizations")]
    lm = nn.functional.nll_loss(student, ids[:, 1:].flatten())
    kl = (dense.exp() * (dense - student)).sum(-1).mean()
    sparse = sum(float(sums.sparse) for sums in drawing.record.values())
    density = 1 - 0.5 * sparse / weights
    kept = math.sqrt(sum(float(weight.square().sum()) for weight in masked)) / norm
    expected = lm + kl + 7 * abs(density - 0.65) - 10 * 0.75 * kept
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert figures == pytest.approx({"lm": float(lm), "kl": float(kl), "density": density}, rel=1e-4)


@pytest.mark.parametrize("ratio, first", [(0.5, 4.0), (0.45, 4.0), (0.449, 2.0), (0.25, 2.0)])
def test_temperature_starts_lower_below_45(ratio: float, first: float) -> None:
    span = JOINT.temperature_for(ratio)
    assert (span.at(0.0), span.at(1.0)) == (first, 0.05)
    assert TILE.temperature_for(ratio) == Span(2.0, 0.05)


def test_tile_logits_can_cross_prior_values() -> None:
    """Adam moves a logit by up to rate·steps/2 under cosine decay; at 2000 steps the rates equal the papers'."""
    assert (JOINT.tile_rate(2000), TILE.tile_rate(2000)) == (1e-3, 1e-4)
    for steps in (1, 10, 200, 1000):
        assert TILE.tile_rate(steps) * steps / 2 == pytest.approx(0.1)
        assert JOINT.tile_rate(steps) * steps / 2 >= 2 * PRIOR_LOGIT


def fit(mask: HybridMask, weight: Tensor, live: Tensor, settings: MaskSettings, zeroed: float) -> None:
    """Fit the masked weight to the dense weight by linear regression, with inputs in the live features only."""
    draw, steps = torch.Generator().manual_seed(0), 150
    linear = nn.Linear(*reversed(weight.shape), bias=False).requires_grad_(False)
    linear.weight.copy_(weight)
    parametrize.register_parametrization(linear, "weight", mask)
    targets = [DensityTarget([0], weight.numel(), zeroed)]
    given = {"ratio": 0.25, "norm": float(weight.norm()), "tile_rate": 5e-3}
    objective = MaskObjective(settings, mask.drawing, [mask], targets, **given)
    optimizer = torch.optim.Adam(objective.parameter_groups(), 5e-3)
    for step in range(steps):
        objective.begin(step, step / steps)
        mask.drawing.record = {}
        x = torch.randn(64, weight.shape[1], generator=draw) * live
        loss = (linear(x) - x @ weight.T).square().mean()
        loss = loss + settings.density_weight * density_excess(targets, mask.drawing.record)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_tiles_that_matter_turn_dense() -> None:
    """Inputs reach one column of tiles, which the prior makes 2:4; training at that ratio makes others 2:4."""
    shape, tile = (8, 32), (4, 8)
    live = torch.zeros(32)
    live[8:16] = 1.0
    areas, scores = {"w": tile_weights(shape, tile)}, np.arange(8, dtype=np.float32).reshape(2, 4)
    scores[:, 1] -= 10.0
    before = select({"w": scores}, areas, 0.25)
    assert before["w"][:, 1].all()
    logits = first_tile_logits({"w": scores}, before, areas)["w"]
    prior = Candidate(np.zeros((8, 8), np.uint8), scores)
    codes = torch.from_numpy(prior.pattern)
    mask = HybridMask(Drawing(0), 0, shape, tile, tile_logits=logits, pattern_logits=None, codes=codes)
    fit(mask, torch.randn(shape, generator=torch.Generator().manual_seed(1)), live, TILE, 0.25 * 256)
    ended = candidate_from_logits(None, mask.tile_logits.detach(), prior, tile)
    after = select({"w": ended.score}, areas, 0.25)["w"]
    assert after.sum() == before["w"].sum() == 4
    assert not after[:, 1].any()


def test_schedules_begin_and_end_where_the_papers_do() -> None:
    assert (Span(25.0, 350.0).at(-0.1), Span(25.0, 350.0).at(1.7)) == (25.0, 350.0)
    assert (JOINT.tile_scale.at(0.0), JOINT.tile_scale.at(1.0)) == (25.0, 350.0)
    assert (JOINT.pattern_scale.at(0.0), JOINT.pattern_scale.at(1.0)) == (100.0, 500.0)
    assert (TILE.tile_scale.at(0.0), TILE.tile_scale.at(1.0)) == (100.0, 500.0)
    assert (MASKLLM.temperature.at(0.0), MASKLLM.temperature.at(1.0)) == (4.0, 0.05)
