import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import DEVICES
from patch_compile.hardware.gpu import Gpu
from patch_compile.plan.cards import card_of, card_of_gpu, find_card


@pytest.mark.parametrize(
    ("target", "name", "words"),
    [
        ("a6000", "A6000", "A6000"),
        ("RTX 4090", "RTX 4090", "RTX 4090"),
        ("geforce-rtx-3090", "RTX 3090", "RTX 3090"),
        ("A100-80", "A100-80", "A100-80"),
        ("sm86", "A6000", "A6000, which stands for sm86"),
        ("8.9", "RTX 4090", "RTX 4090, which stands for 8.9"),
        ("a10", "A6000", "A6000, which stands for a10"),
        ("a100", "A100-40", "A100-40, which stands for a100"),
        ("sm86, h100", "A6000", "A6000, which stands for sm86, h100"),
        ("sm120,h100", "H100", "H100, which stands for sm120, h100"),
    ],
)
def test_a_target_is_predicted_for_its_card_or_the_first_of_its_architecture(target, name, words):
    card = card_of(target)
    assert (card.name, str(card)) == (name, words)


@pytest.mark.parametrize("target", ["nonsense", "a6000,nonsense"])
def test_an_unknown_target_is_refused_with_the_table(target):
    with pytest.raises(PatchCompileError, match="no card for the target 'nonsense'") as caught:
        find_card(target)
    assert all(name in caught.value.why for name in DEVICES) and "sm86" in caught.value.why


def test_a_known_architecture_without_a_card_is_told_from_an_unknown_one():
    """A build continues without predictions, but a plan is impossible."""
    assert find_card("sm120") is None
    with pytest.raises(PatchCompileError, match="'sm120'"):
        card_of("sm120")


@pytest.mark.parametrize(
    ("name", "capability", "words"),
    [
        ("NVIDIA RTX A6000", (8, 6), "A6000"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "A100-40, which stands for NVIDIA A100-SXM4-80GB"),
        ("NVIDIA H200", (9, 0), "H200"),
        ("NVIDIA GeForce RTX 5090", (12, 0), "None"),
    ],
)
def test_the_gpu_of_this_machine(name, capability, words):
    assert str(card_of_gpu(Gpu(name, capability))) == words
