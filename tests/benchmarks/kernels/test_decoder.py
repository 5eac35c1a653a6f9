"""The benchmark's decoder on the CPU: hybrid linears on host fibers give the logits of dense linears."""

import importlib

import numpy as np
import pytest
import torch

from tests.benchmarks.kernels.test_check import DEVICE, KernelsOnTheCpu
from tests.plugins.host_kernel import COMPILER

check, decoder, hybrid, problems = map(importlib.import_module, ("check", "decoder", "hybrid", "problems"))

SHAPE = decoder.Shape(hidden=64, intermediate=192, heads=2, layers=2, vocabulary=40)


def layer(kernels, rng):
    """The dense weights of a layer and the same weights packed, some slabs 2:4."""
    dense, packed = {}, {}
    for name, (n, k) in SHAPE.linears.items():
        gated = name == "gate_up"
        about = check.Config("any", 64, 0, 0)
        case = check.Case(0, about, torch.float16, (n, k), 0.5, gated)
        halves, codes = check.random_weights(rng, case)
        halves = [weight / 4 for weight in halves]  # exact, and zeros stay
        dense[name] = torch.cat(halves)
        found, _ = check.packed_weights(halves, codes, case, rng)
        rows = found.panels * 64
        layout = problems.Layout((rows, k), 64, found.index, (len(found.dense), len(found.sparse)))
        packed[name] = hybrid.Hybrid(
            kernels, (n, k), layout, check.tensors_of(found, found.index, "cpu"), gated=gated
        )
    return dense, packed


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")
def test_both_models_give_the_same_logits(kernel):
    kernels, rng = KernelsOnTheCpu(kernel), np.random.default_rng(0)
    layers = [layer(kernels, rng) for _ in range(SHAPE.layers)]
    linears = (
        decoder.DenseLinears([dense for dense, _ in layers]),
        decoder.HybridLinears(DEVICE, [packed for _, packed in layers]),
    )
    prompt, token = torch.randint(40, (2, 5)), torch.randint(40, (2, 1))
    logits = []
    for one in linears:
        model = decoder.Decoder(SHAPE, one, batch=2, length=8, place="cpu")
        first = model(prompt, torch.arange(5))
        logits.append((first, model(token, torch.tensor([5]))))
    assert kernels.launches == SHAPE.layers * 4 * 2
    for dense, hybrid_ in zip(*logits, strict=True):
        assert dense.shape == (2, 40) and dense.std() > 0.1
        assert (dense - hybrid_).abs().max() <= 0.02 * dense.abs().max()


def test_a_step_continues_the_prompt():
    """The cache holds the prompt: a step after four tokens gives the logits of all five at once."""
    tokens = torch.randint(40, (2, 5))
    linears = decoder.DenseLinears.random(SHAPE, "cpu")
    whole = decoder.Decoder(SHAPE, linears, 2, 8, "cpu")(tokens, torch.arange(5))
    model = decoder.Decoder(SHAPE, linears, 2, 8, "cpu")
    model(tokens[:, :4], torch.arange(4))
    step = model(tokens[:, 4:], torch.tensor([4]))
    assert (step - whole).abs().max() <= 0.02 * whole.abs().max()
    other = decoder.Decoder(SHAPE, linears, 2, 8, "cpu")
    other(tokens[:, :4].flip(1), torch.arange(4))
    assert (other(tokens[:, 4:], torch.tensor([4])) - whole).abs().max() > 0.1 * whole.abs().max()


def test_the_table_shows_speed_over_dense():
    def row(linears, step, **key):
        figures = {"prefill": 0.1, "step": step, "tokens_per_second": 1 / step}
        return {"key": {"linears": linears, **key}, **figures}

    lines = decoder.decoder_table([row("dense", 5e-3), row("hybrid", 3e-3, ratio=0.35)]).splitlines()
    assert lines[-1] == "| hybrid, ratio 0.35 | 100.00 | 3.00 | 333 | 1.67 | 1.00 | 1.67 |"
