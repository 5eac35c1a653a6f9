"""Requests that share a batch get the same text as on their own, whenever they come and go."""

from collections import defaultdict
from collections.abc import Sequence

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.runtime import Continuation, Generator, Sampling, SharedBatch, open_generator
from tests.conftest import WORDS
from tests.runtime.conftest import OutOf

PROMPTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 2 + 3 * i)) for i in range(1, 7)]


def run_all(batch: SharedBatch, arrivals: dict[int, Sequence[Continuation]]) -> dict[Continuation, list[int]]:
    """Continue requests that arrive at given steps; returns the tokens of their first rows."""
    tokens: dict[Continuation, list[int]] = defaultdict(list)
    step = 0
    while step <= max(arrivals) or not batch.empty:
        if new := arrivals.get(step, ()):
            assert batch.takes(new)
            batch.join(new)
        if not batch.empty:
            for given, pieces in batch.choose():
                assert not isinstance(pieces, PatchCompileError)
                tokens[given] += [piece.token for piece in pieces if piece.row == 0]
            batch.step()
        step += 1
    return tokens


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])  # full attention, and a sliding window
def generator(request: pytest.FixtureRequest, out_of: OutOf) -> Generator:
    return open_generator(out_of(request.param), runner="onnx")


def test_requests_come_and_go(generator: Generator) -> None:
    sampled = Sampling(temperature=1.0, seed=3)
    asked = [(prompt, 2 + 5 * i % 17, sampled if i % 2 else Sampling()) for i, prompt in enumerate(PROMPTS)]
    alone = [generator.generate([p], s, new_tokens=n)[0].tokens for p, n, s in asked]
    given = [generator.request([p], s, new_tokens=n) for p, n, s in asked]
    arrivals = {0: given[:2], 1: [given[2]], 4: given[3:5], 9: [given[5]]}
    found = run_all(generator.shared_batch(8), arrivals)
    assert [found[one] for one in given] == alone


def test_what_the_batch_holds_stays_small(generator: Generator) -> None:
    """Rows that have ended are dropped, and so is the padding that only they needed."""
    long = generator.request([PROMPTS[-1]], new_tokens=3)
    short = generator.request(["the"], new_tokens=20)
    batch = generator.shared_batch(2)
    assert batch.takes([long, short])
    batch.join([long, short])
    assert batch.rows == 2 and not batch.takes([generator.request(["the"], new_tokens=2)])
    for _ in range(6):
        list(batch.choose())
        batch.step()
    assert batch.rows == 1 and batch.takes([generator.request(["the"], new_tokens=2)])
    decoding = batch._decoding
    assert decoding is not None and decoding._mask.shape == (1, 1 + 6)  # type: ignore[attr-defined]
    batch.leave(short)
    assert batch.empty
    batch.step()
    assert batch.rows == 0


def test_plain_decoders_share_batches_from_the_start(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine, whose cache keeps the shape of its batch. Its limits hold for the batch as a whole."""
    from patch_compile.runtime.decoder import Limits
    from patch_compile.runtime.onnx_decoder import OnnxDecoding

    monkeypatch.delattr(OnnxDecoding, "join")
    monkeypatch.setattr(generator.decoder, "joins", False)
    monkeypatch.setattr(generator.decoder, "limits", Limits(batch=8, total=40))
    asked = [(PROMPTS[1], 3), (PROMPTS[0], 9)]
    alone = [generator.generate([p], new_tokens=n)[0].tokens for p, n in asked]
    given = [generator.request([p], new_tokens=n) for p, n in asked]
    batch = generator.shared_batch(8)
    longest, newest = generator.request([PROMPTS[4]], new_tokens=4), generator.request(["the"], new_tokens=39)
    assert batch.takes([longest]) and batch.takes([newest]) and not batch.takes([longest, newest])
    batch.join(given)
    assert not batch.takes([longest])
    while not batch.empty:
        for one, pieces in batch.choose():
            assert not isinstance(pieces, PatchCompileError)
            if one is given[0]:
                assert [piece.token for piece in pieces] == [alone[0].pop(0)]
        batch.step()
    assert alone[0] == [] and batch.takes([longest])
    found = run_all(batch, {0: [generator.request([p], new_tokens=n) for p, n in asked]})
    assert [*found.values()] == [generator.generate([p], new_tokens=n)[0].tokens for p, n in asked]
