"""The card that a target or a GPU is predicted by."""

import json

import pytest
from click.testing import CliRunner

from patch_compile.cli.app import cli
from patch_compile.engine.backend import load_backend
from patch_compile.hardware import cards
from patch_compile.hardware.cards import (
    Card,
    GpuArchitecture,
    RatedCard,
    SmRates,
    parse_architectures,
    rated_cards,
)
from patch_compile.hardware.gpu import Gpu
from patch_compile.pipeline.plan import plan
from patch_compile.pipeline.prepare import _choose_targets
from patch_compile.planning.cards import card_of, card_of_gpu, find_card
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama
from tests.refusals import refused


@pytest.mark.parametrize(
    ("target", "name", "words"),
    [
        ("a6000", "A6000", "A6000"),
        ("RTX 4090", "RTX 4090", "RTX 4090"),
        ("geforce-rtx-3090", "RTX 3090", "RTX 3090"),
        ("A100-80", "A100-80", "A100-80"),
        ("a100-sxm4-80gb", "A100-80", "A100-80"),
        ("sm86", "A6000", "A6000, which stands for sm86"),
        ("8.9", "RTX 4090", "RTX 4090, which stands for 8.9"),
        ("a10", "A6000", "A6000, which stands for a10"),
        ("a100", "A100-40", "A100-40, which stands for a100"),
        ("sm86, h100", "A6000", "A6000, for the first of sm86, h100"),
        ("sm120,h100", "RTX 5090", "RTX 5090, for the first of sm120, h100"),
        ("orin, a6000", "A6000", "A6000, for the first of orin, a6000 (no prediction for orin)"),
    ],
)
def test_targets_fall_back_to_their_architectures_card(target, name, words):
    card = card_of(target)
    assert (card.name, str(card)) == (name, words)


@pytest.mark.parametrize("target", ["nonsense", "a6000,nonsense"])
def test_unknown_targets_are_refused(target):
    with refused():
        find_card(target)
    with refused():
        parse_architectures(target)


def test_architectures_without_sheets_are_known(unrated_sm120):
    """A build continues without predictions, but a plan is impossible."""
    assert find_card("sm120") is None and find_card("rtx 5090") is None
    with refused() as caught:
        card_of("sm120")
    assert all(card.name in caught.error.fix for card in rated_cards())


@pytest.mark.parametrize(
    ("name", "capability", "words"),
    [
        ("NVIDIA RTX A6000", (8, 6), "A6000"),
        ("NVIDIA A40", (8, 6), "A40"),
        ("NVIDIA A10", (8, 6), "A6000, which stands for NVIDIA A10"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "A100-80"),
        ("NVIDIA H200", (9, 0), "H200"),
        ("NVIDIA H100 80GB HBM3", (9, 0), "H100"),
        ("NVIDIA GeForce RTX 5090", (12, 0), "RTX 5090"),
        ("NVIDIA B200", (10, 0), "None"),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), "None"),
    ],
)
def test_the_gpu_of_this_machine(name, capability, words):
    assert str(card_of_gpu(Gpu(name, capability))) == words


class TestAnotherRow:
    """A card is one row, and so is an architecture."""

    @pytest.fixture(autouse=True)
    def rows(self, monkeypatch):
        toy = RatedCard(
            "Toy 9000",
            95,
            ("Toy 9000 Super",),
            memory=64,
            bandwidth=3000,
            dense=400.0,
            int8=800.0,
            sms=100,
            clock=2.0,
            l2=64,
            source="none",
        )
        more = (*cards.ARCHITECTURES, GpuArchitecture(95, SmRates((228, 227), 1024)))
        monkeypatch.setattr(cards, "ARCHITECTURES", more)
        monkeypatch.setattr(cards, "CARDS", (*cards.CARDS, toy, Card("Toy 8000", 95)))

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("toy9000", "Toy 9000"),
            ("NVIDIA Toy-9000 (Super)", "Toy 9000"),
            ("toy 8000", "Toy 9000, which stands for toy 8000"),
            ("sm95", "Toy 9000, which stands for sm95"),
        ],
    )
    def test_is_planned_for(self, tmp_path, target, words):
        model = write_hollow_llama(tmp_path / "llama", LLAMA_2_7B | {"num_hidden_layers": 1})
        found = plan(Recipe.parse({"model": model, "ratio": 0.4, "target": target}))
        assert str(found.card) == words and found.whole.end_to_end.speedup > 1
        flags = [str(model), "--ratio", "0.4", "--target", target, "--json"]
        said = CliRunner().invoke(cli.commands["plan"], flags, catch_exceptions=False).stdout
        assert json.loads(said) == found.as_json()

    @pytest.mark.rtx
    def test_is_what_a_build_is_for(self, monkeypatch):
        rtx = load_backend("tensorrt-rtx")
        recipe = Recipe.parse({"model": "m", "ratio": 0.4, "target": "toy 8000, a6000, toy 9000"})
        with refused():  # the real library has no such
            _choose_targets(recipe, "tensorrt-rtx", Progress())
        known = {**rtx.compute_capabilities, "SM95": object()}
        monkeypatch.setattr(type(rtx), "compute_capabilities", known)
        chosen = _choose_targets(recipe, "tensorrt-rtx", Progress())
        assert [target.name for target in chosen] == ["sm95", "sm86"]
