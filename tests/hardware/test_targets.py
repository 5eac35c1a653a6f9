import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import local_gpu
from patch_compile.hardware.targets import GPU_NAMES, TARGETS, local_target, parse_targets


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sm86,sm89", ["sm86", "sm89"]),
        ("SM_86", ["sm86"]),
        ("8.6, 12.0", ["sm86", "sm120"]),
        ("compute_90", ["sm90"]),
        ("a100", ["sm80"]),
        ("A6000,rtx3090", ["sm86"]),
        ("3090,4090", ["sm86", "sm89"]),
        ("NVIDIA GeForce RTX 4090", ["sm89"]),
        ("RTX 6000 Ada", ["sm89"]),
        ("l4,L40S,h100,rtx-5090", ["sm89", "sm90", "sm120"]),
        ("sm89,sm86,sm89", ["sm89", "sm86"]),
    ],
)
def test_targets_by_architecture_and_card(text, names):
    assert [target.name for target in parse_targets(text)] == names


@pytest.mark.parametrize("text", ["sm61", "1080ti", "sm86,foo", "86x", "rtx", "sm"])
def test_unknown_target_lists_the_known(text):
    with pytest.raises(PatchCompileError, match=r"unknown target .*sm86 \(a6000") as caught:
        parse_targets(text)
    assert all(name in str(caught.value) for name in TARGETS)


@pytest.mark.parametrize("text", ["", " , "])
def test_empty(text):
    with pytest.raises(PatchCompileError, match="no target given"):
        parse_targets(text)


def test_table_is_consistent():
    for name, target in TARGETS.items():
        major, minor = target.compute_capability
        assert name == target.name == f"sm{major}{minor}"
    assert all(parse_targets(card) == (target,) for card, target in GPU_NAMES.items())


def test_local_target_is_that_of_the_gpu():
    gpu, target = local_gpu(), local_target()
    if target is not None:
        assert gpu is not None and gpu.compute_capability == target.compute_capability
    else:
        assert gpu is None or gpu.compute_capability not in [t.compute_capability for t in TARGETS.values()]
