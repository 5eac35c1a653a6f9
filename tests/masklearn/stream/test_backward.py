"""`stream_blocks_back` computes the gradients of the whole model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import linear_modules
from masklearn.model.models import auto_class
from masklearn.stream import backward, hidden_states, logits
from masklearn.stream.backward import BackwardBlock, stream_blocks_back
from masklearn.stream.blocks import stream_blocks
from tests.conftest import ModelMaker
from tests.masklearn.architectures import LANGUAGE_MODELS, every
from tests.refusals import refused

WINDOWS = np.random.default_rng(0).integers(0, 40, (3, 11))


def run_back(block: BackwardBlock) -> list[float]:
    """Run all windows; the head returns the losses."""
    if block.is_head:
        return [block.loss_backward(i, torch.from_numpy(window)) for i, window in enumerate(WINDOWS)]
    for i in range(len(WINDOWS)):
        block.backward(i)
    return []


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
def test_gradients_are_those_of_the_whole_model(make_model, monkeypatch, model_type: str) -> None:
    monkeypatch.setattr(logits, "HEAD_CHUNK", 4)  # shorter than a window
    path = make_model(model_type)
    expected_losses, expected = whole_gradients(path)
    losses: list[float] = []
    seen: dict[str, list[torch.Tensor]] = {}
    for block in stream_blocks_back(Checkpoint.open(path), WINDOWS, "cpu"):
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


def test_blocks_come_last_to_first(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    forward = [
        (next(iter(block.linears)), [hidden.clone() for hidden in block.hidden])
        for block in stream_blocks(checkpoint, WINDOWS, "cpu")
    ]
    back: list[tuple[str, list[torch.Tensor]]] = []
    blocks = []
    for block in stream_blocks_back(checkpoint, WINDOWS, "cpu"):
        back.append((next(iter(block.linears)), [h.clone() for h in block.hidden]))
        blocks.append(block)
        on_meta = [all(p.is_meta for p in b.module.parameters()) for b in blocks]
        assert on_meta == [True] * (len(blocks) - 1) + [False]
    assert [name for name, _ in forward] == [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]
    assert [name for name, _ in back] == ["lm_head", *(name for name, _ in reversed(forward))]
    for (_, there), (_, again) in zip(reversed(forward), back[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(there, again, strict=True))


@pytest.mark.parametrize("named", [True, False])
def test_inputs_that_do_not_fit_go_to_files(make_model, tmp_path: Path, monkeypatch, named: bool) -> None:
    checkpoint = Checkpoint.open(make_model())
    expected = [[h.clone() for h in block.grads] for block in finished(checkpoint, None)]
    size = 3 * WINDOWS.size * 48 * 4
    store = tmp_path / "store" if named else None
    if not named:
        monkeypatch.setattr(hidden_states.tempfile, "tempdir", str(tmp_path))
    files: list[Any] = []
    mapped = hidden_states._mapped
    monkeypatch.setattr(hidden_states, "_mapped", lambda *of: files.append(of) or mapped(*of))
    for limit in (size, size - 1):
        monkeypatch.setattr(backward, "_KEPT_BYTES", limit)
        for i, block in enumerate(finished(checkpoint, store)):
            assert all(torch.equal(a, b) for a, b in zip(block.grads, expected[i], strict=True))
        assert len(files) == (0 if limit == size else 3)
    assert not list(tmp_path.rglob("hidden-*"))


def test_nothing_depends_on_where_the_hidden_states_are(make_model, tmp_path: Path, monkeypatch) -> None:
    checkpoint = Checkpoint.open(make_model())
    expected = [[h.clone() for h in block.grads] for block in finished(checkpoint, None)]
    monkeypatch.setattr(hidden_states, "_SHARE", 0.0)
    for i, block in enumerate(finished(checkpoint, tmp_path)):
        assert block.hidden.on_disk and block.grads.on_disk
        assert all(torch.equal(a, b) for a, b in zip(block.grads, expected[i], strict=True))


def finished(checkpoint: Checkpoint, store: Path | None) -> Any:
    """Yield each block after all its windows have run."""
    for block in stream_blocks_back(checkpoint, WINDOWS, "cpu", store=store):
        run_back(block)
        yield block


def test_no_space_for_the_inputs(make_model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(backward, "_KEPT_BYTES", 0)
    usage = hidden_states.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(hidden_states.shutil, "disk_usage", lambda _: usage._replace(free=1))
    with refused():
        next(stream_blocks_back(Checkpoint.open(make_model()), WINDOWS, "cpu", store=tmp_path))


def test_windows_that_the_caller_leaves_out_are_run(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    expected = [[h.clone() for h in block.grads] for block in finished(checkpoint, None)]
    previous: BackwardBlock | None = None
    for i, block in enumerate(stream_blocks_back(checkpoint, WINDOWS, "cpu")):
        if block.is_head:
            block.loss_backward(1, torch.from_numpy(WINDOWS[1]))
        if i:
            assert previous is not None
            assert all(torch.equal(a, b) for a, b in zip(block.grads, expected[i - 1], strict=True))
        previous = block


def test_backward_runs_once_a_window(make_model: ModelMaker) -> None:
    stream = stream_blocks_back(Checkpoint.open(make_model()), WINDOWS, "cpu")
    head = next(stream)
    head.loss_backward(0, torch.from_numpy(WINDOWS[0]))
    with refused(RuntimeError):
        head.loss_backward(0, torch.from_numpy(WINDOWS[0]))
    block = next(stream)
    block.backward(2)
    with refused(RuntimeError):
        block.backward(2)
    with refused(RuntimeError):
        block.advance()


def test_an_encoder_is_refused(make_model: ModelMaker) -> None:
    with refused():
        next(stream_blocks_back(Checkpoint.open(make_model("bert")), WINDOWS, "cpu"))


def test_no_weight_has_a_gradient(make_model: ModelMaker) -> None:
    """Weight gradients would double the block's memory."""
    for block in stream_blocks_back(Checkpoint.open(make_model()), WINDOWS, "cpu"):
        run_back(block)
        assert all(parameter.grad is None for parameter in block.module.parameters())
