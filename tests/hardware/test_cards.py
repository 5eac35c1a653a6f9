"""The table of cards and architectures, and the names that it takes."""

import re
from pathlib import Path

import pytest

from patch_compile.hardware.cards import (
    ARCHITECTURES,
    CARDS,
    RatedCard,
    architecture_of,
    architecture_of_gpu,
    card_named,
    local_architecture,
    parse_architectures,
    parse_targets,
    rated_cards,
)
from patch_compile.hardware.gpu import Gpu, local_gpu
from patch_compile.plugin.targets import ARCHS
from tests.refusals import refused

CMAKE = Path(__file__).resolve().parents[2] / "plugins" / "CMakeLists.txt"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sm86,sm89", ["sm86", "sm89"]),
        ("SM_86", ["sm86"]),
        ("8.6, 12.0", ["sm86", "sm120"]),
        ("compute_90", ["sm90"]),
        ("a100", ["sm80"]),
        ("A100-80", ["sm80"]),
        ("a100 (80 GB)", ["sm80"]),
        ("A6000,rtx3090", ["sm86"]),
        ("3090,4090", ["sm86", "sm89"]),
        ("NVIDIA GeForce RTX 4090", ["sm89"]),
        ("RTX 6000 Ada", ["sm89"]),
        ("l4,L40S,h100,rtx-5090", ["sm89", "sm90", "sm120"]),
        ("sm89,sm86,sm89", ["sm89", "sm86"]),
    ],
)
def test_architectures_of_what_is_named(text, names):
    assert [row.name for row in parse_architectures(text)] == names


@pytest.mark.parametrize("text", [
    "sm86,foo", "86x", "sm", "a7000", "sm61", "1080ti", "Tesla T4", "RTX 2080 Ti", "", " , ",
])  # fmt: skip
def test_unknown_and_old_targets_are_refused(text):
    with refused() as caught:
        parse_targets(text)
    assert all(row.name in str(caught.error) for row in ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "capability", "card"),
    [
        ("NVIDIA A100-SXM4-40GB", (8, 0), "A100-40"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "A100-80"),
        ("NVIDIA A100 80GB PCIe", (8, 0), "A100-80 PCIe"),
        ("NVIDIA A10G", (8, 6), "A10G"),
        ("NVIDIA GeForce RTX 4070 Ti", (8, 9), "RTX 4070 Ti"),
        ("NVIDIA RTX 6000 Ada Generation", (8, 9), "RTX 6000 Ada"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), None),
        ("NVIDIA H100 80GB HBM3", (9, 0), "H100"),
        ("NVIDIA GeForce RTX 5090", (12, 0), "RTX 5090"),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), None),
    ],
)
def test_gpus_are_recognised_by_their_names(name, capability, card):
    found, row = card_named(name), architecture_of_gpu(Gpu(name, capability))
    assert (found and found.name) == card
    assert (row and row.compute_capability) == (capability if capability[0] >= 8 else None)


def test_no_name_means_two_cards():
    names = [name for card in CARDS for name in (card.name, *card.aliases)]
    assert all(card_named(name) in CARDS for name in names)
    for card in CARDS:
        for name in (card.name, card.name.upper(), f"nvidia {card.name.lower()}", *card.aliases):
            assert card_named(name) is card
            (target,) = parse_targets(name)
            assert target.card is card and target.architecture.sm == card.sm


def test_rows_hold_together():
    assert len({card.name for card in CARDS}) == len(CARDS)
    assert len({row.sm for row in ARCHITECTURES}) == len(ARCHITECTURES)
    for card in CARDS:
        row = architecture_of(card.sm)
        assert row.rates is not None or not isinstance(card, RatedCard)
    for card in rated_cards():
        assert card.source and card.memory >= 16 and card.rates.shared[0] > card.rates.shared[1]
    for row in ARCHITECTURES:
        major, minor = row.compute_capability
        assert row.name == f"sm{major}{minor}" and row.tensorrt_name == row.name.upper()


def test_the_plugin_is_compiled_for_what_is_predicted():
    """The plugin's own lists, which lie where nothing of the table can be read."""
    assert {row.sm for row in ARCHITECTURES if row.rates} == set(ARCHS)
    (line,) = re.findall(r"set\(CMAKE_CUDA_ARCHITECTURES ([\w -]+) CACHE", CMAKE.read_text())
    assert {int(name.removesuffix("-real")) for name in line.split()} == set(ARCHS)


def test_the_local_architecture_is_that_of_the_gpu():
    gpu = local_gpu()
    assert local_architecture() == (architecture_of_gpu(gpu) if gpu else None)
