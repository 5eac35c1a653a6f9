"""`stream_blocks_back` computes the gradients of the whole model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import linear_modules
from masklearn.model.models import auto_class
from masklearn.stream import logits
from masklearn.stream.backward import BackwardBlock, stream_blocks_back
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.hidden_states import PassCheckpoints
from tests.conftest import ModelMaker
from tests.masklearn.architectures import LANGUAGE_MODELS, every
from tests.refusals import refused

WINDOWS = np.random.default_rng(0).integers(0, 40, (3, 11))


def passed_back(checkpoint: Checkpoint, folder: Path) -> Iterator[BackwardBlock]:
    """The blocks of a pass back, with its checkpoints in a folder."""
    ahead, back = (
        PassCheckpoints(folder / name, {}, "a pass", pytest.fail, lambda: None, keep_states=name == "ahead")
        for name in ("ahead", "back")
    )
    return stream_blocks_back(checkpoint, WINDOWS, "cpu", store=folder, bf16=False, checkpoints=(ahead, back))


def run_back(block: BackwardBlock) -> list[float]:
    """Run all windows; the head returns the losses."""
    losses = [block.backward(i, window) for i, window in enumerate(WINDOWS)]
    return losses if block.is_head else []


def watch(linears: dict[str, torch.nn.Linear], seen: dict[str, list[torch.Tensor]]) -> list[Any]:
    """Record the gradients of every linear's outputs."""

    def keep(name: str) -> Any:
        return lambda _, __, gradients: seen.setdefault(name, []).append(
            gradients[0].detach().reshape(-1, gradients[0].shape[-1])
        )

    return [linear.register_full_backward_hook(keep(name)) for name, linear in linears.items()]


def whole_gradients(path: Path) -> tuple[list[float], dict[str, list[torch.Tensor]]]:
    """Losses, and output gradients of every linear, by `loss.backward()` on transformers' model."""
    checkpoint = Checkpoint.open(path)
    whole = auto_class(ARCHITECTURES[checkpoint.config["model_type"]]).from_pretrained(path).eval()
    seen: dict[str, list[torch.Tensor]] = {}
    watch(linear_modules(whole, checkpoint), seen)
    losses = []
    for window in torch.from_numpy(WINDOWS):
        loss = whole(window[None], labels=window[None]).loss * (WINDOWS.shape[1] - 1)
        loss.backward()
        losses.append(float(loss.detach()))
    return losses, seen


@pytest.mark.parametrize("model_type", every(LANGUAGE_MODELS))
def test_gradients_are_those_of_the_whole_model(make_model, monkeypatch, tmp_path, model_type: str) -> None:
    monkeypatch.setattr(logits, "HEAD_CHUNK", 4)  # shorter than a window
    path = make_model(model_type)
    expected_losses, expected = whole_gradients(path)
    losses: list[float] = []
    seen: dict[str, list[torch.Tensor]] = {}
    for block in passed_back(Checkpoint.open(path), tmp_path):
        hooks = watch(block.linears, seen)
        losses += run_back(block)
        for hook in hooks:
            hook.remove()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    checked = 0
    for name in expected:
        if name not in seen:  # linears outside the blocks
            continue
        gradient, reference = torch.cat(seen[name]), torch.cat(expected[name])
        if gradient.shape != reference.shape:  # the head does not get the last token, which predicts nothing
            reference = reference.reshape(len(WINDOWS), WINDOWS.shape[1], -1)[:, :-1].flatten(0, 1)
        torch.testing.assert_close(gradient, reference, rtol=2e-3, atol=1e-5)
        checked += 1
    assert checked == len(seen) >= 12


def test_blocks_come_last_to_first(make_model: ModelMaker, tmp_path: Path) -> None:
    """A block has its weights while it runs, and no gradients of them, which would double its memory."""
    checkpoint = Checkpoint.open(make_model())
    forward = [
        (next(iter(block.linears)), [hidden.clone() for hidden in block.hidden])
        for block in stream_blocks(checkpoint, WINDOWS, "cpu")
    ]
    back: list[tuple[str, list[torch.Tensor]]] = []
    blocks = []
    for block in passed_back(checkpoint, tmp_path):
        back.append((next(iter(block.linears)), [h.clone() for h in block.hidden]))
        blocks.append(block)
        run_back(block)
        assert all(parameter.grad is None for parameter in block.module.parameters())
        on_meta = [all(p.is_meta for p in b.module.parameters()) for b in blocks]
        assert on_meta == [True] * (len(blocks) - 1) + [False]
    assert [name for name, _ in forward] == [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]
    assert [name for name, _ in back] == ["lm_head", *(name for name, _ in reversed(forward))]
    for (_, there), (_, again) in zip(reversed(forward), back[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(there, again, strict=True))


def test_no_window_is_left_out(make_model: ModelMaker, tmp_path: Path) -> None:
    blocks = passed_back(Checkpoint.open(make_model()), tmp_path)
    next(blocks).backward(1, WINDOWS[1])
    with pytest.raises(AssertionError, match="windows were not run backward"):
        next(blocks)


def test_an_encoder_is_refused(make_model: ModelMaker, tmp_path: Path) -> None:
    with refused():
        next(passed_back(Checkpoint.open(make_model("bert")), tmp_path))
