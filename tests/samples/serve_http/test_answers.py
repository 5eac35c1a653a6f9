"""Answers of the server to plain HTTP and to OpenAI's client."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from patch_compile.runtime import Generator, Sampling
from patch_compile.runtime.continuation import Finish, Piece
from patch_compile.runtime.decoder import pad_left
from samples.serve_http.protocol import ChatRequest, CompletionRequest, parse
from samples.serve_http.replies import Reply
from tests.samples.serve_http.serving import SERVE, Running, alone, serving


def test_completion(tiny: Running, generator: Generator) -> None:
    with tiny.client as client:
        one = client.completions.create(model="tiny", prompt="the cat sat", max_tokens=9)
        assert (one.choices[0].text, one.choices[0].finish_reason) == (
            alone(generator, "the cat sat", 9),
            "length",
        )
        assert one.usage and (one.usage.prompt_tokens, one.usage.completion_tokens) == (3, 9)
        assert (one.object, one.model, one.id[:5]) == ("text_completion", "tiny", "cmpl-")
        ids = generator.encode("the cat sat")
        assert (
            client.completions.create(model="tiny", prompt=ids, max_tokens=9).choices[0].text
            == one.choices[0].text
        )
        # without a number of tokens, OpenAI's default
        assert client.completions.create(model="tiny", prompt="dog").usage.completion_tokens == 16
        assert client.models.list().data[0].id == client.models.retrieve("tiny").id == "tiny"


def test_many_prompts_and_n(tiny: Running, generator: Generator) -> None:
    """Choices follow the order of the prompts, n for each, and a prompt's tokens count once."""
    prompts = ["the cat sat on a mat", "dog"]
    with tiny.client as client:
        got = client.completions.create(model="tiny", prompt=prompts, max_tokens=7, n=2)
        by_ids = client.completions.create(
            model="tiny", prompt=[generator.encode(p) for p in prompts], max_tokens=7, n=2
        )
    texts = [alone(generator, prompt, 7) for prompt in prompts for _ in range(2)]
    assert texts[0] != texts[2]
    assert [choice.text for choice in got.choices] == texts == [choice.text for choice in by_ids.choices]
    assert [choice.index for choice in got.choices] == [0, 1, 2, 3]
    assert got.usage and (got.usage.prompt_tokens, got.usage.completion_tokens) == (7, 28)


def test_stream_of_many_rows(tiny: Running, generator: Generator) -> None:
    prompts = ["the cat sat on a mat", "dog"]
    with tiny.client as client:
        chunks = list(
            client.completions.create(
                model="tiny",
                prompt=prompts,
                max_tokens=7,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    texts, finishes = ["", ""], [[], []]
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        finishes[choice.index].append(choice.finish_reason)
    assert texts == [alone(generator, prompt, 7) for prompt in prompts]
    assert finishes == [[None] * 6 + ["length"]] * 2  # text comes piece by piece, not at the end
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 7 + 14
    assert len({chunk.id for chunk in chunks}) == 1


def test_events_as_they_are_sent(tiny: Running) -> None:
    response = tiny.post({"prompt": "dog", "max_tokens": 2, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and len(events) == 4
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:2])


def test_stop(tiny: Running, generator: Generator) -> None:
    whole = alone(generator, "the cat sat", 12)
    word = next(w for w in whole.split() if whole.split().index(w) > 1)
    with tiny.client as client:
        got = client.completions.create(model="tiny", prompt="the cat sat", max_tokens=12, stop=word)
        chunks = client.completions.create(
            model="tiny", prompt="the cat sat", max_tokens=12, stop=["no", word], stream=True
        )
        choices = [chunk.choices[0] for chunk in chunks]
    assert (got.choices[0].text, got.choices[0].finish_reason) == (whole[: whole.index(word)], "stop")
    assert "".join(c.text for c in choices) == got.choices[0].text and choices[-1].finish_reason == "stop"


def test_chat(tiny: Running, generator: Generator) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "the cat"},
        {"role": "user", "content": [{"type": "text", "text": "sat"}]},
    ]
    expected = alone(generator, "big the cat red sat house", 8)
    with tiny.client as client:
        got = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=8)
        assert (got.choices[0].message.content, got.choices[0].message.role) == (expected, "assistant")
        assert (got.object, got.usage.prompt_tokens, got.choices[0].finish_reason) == (
            "chat.completion",
            6,
            "length",
        )
        # The client's answer object can be sent back unchanged, and OpenAI's defaults are accepted.
        again = [*messages, got.choices[0].message, {"role": "user", "content": "mat"}]
        got = client.chat.completions.create(
            model="tiny", messages=again, max_tokens=3, frequency_penalty=0, logprobs=False, user="me",
            response_format={"type": "text"},
        )  # fmt: skip
    assert got.choices[0].message.content == alone(
        generator, f"big the cat red sat big {expected} red mat house", 3
    )


def test_chat_stream_asynchronous(tiny: Running, generator: Generator) -> None:
    async def stream() -> list[Any]:
        async with tiny.async_client as client:
            chunks = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "the dog"}], max_tokens=8, stream=True,
                stream_options={"include_usage": True}, n=2,
            )  # fmt: skip
            return [chunk async for chunk in chunks]

    chunks = asyncio.run(stream())
    assert [c.choices[0].delta.role for c in chunks[:2]] == ["assistant"] * 2
    texts = ["", ""]
    for chunk in chunks[:-1]:
        assert chunk.object == "chat.completion.chunk"
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [alone(generator, "red the dog house", 8)] * 2
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == ["length"] * 2
    assert chunks[-1].usage.completion_tokens == 16


def test_a_chat_goes_on_to_the_limit(generator: Generator) -> None:
    """max_new_tokens is the default of a chat and the largest number that a request may ask for."""
    with serving(generator, max_new_tokens=40) as running:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "the"}]}
        assert running.post(body, "chat/completions").json()["usage"]["completion_tokens"] == 40
        refused = running.post(body | {"max_tokens": 41}, "chat/completions")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


def test_sampling(generator: Generator) -> None:
    """The model's settings hold when the client gives none; a seed repeats a draw, and rows differ."""
    sampled = Generator(
        generator.decoder, generator.tokenizer, generator.end_tokens, Sampling(temperature=1.5, seed=7)
    )
    with serving(sampled) as running, running.client as client:

        def text(**given: Any) -> list[str]:
            got = client.completions.create(model="tiny", prompt="the cat", max_tokens=12, **given)
            return [choice.text for choice in got.choices]

        greedy = alone(generator, "the cat", 12)
        assert text(temperature=0) == [greedy]
        assert text(seed=7) == [alone(sampled, "the cat", 12)] != [greedy]
        assert text(seed=-5, n=2) == text(seed=-5, n=2)
        assert len({*text(seed=-5, n=3), *text(seed=-6, n=3)}) == 6
        assert len({text()[0] for _ in range(4)}) > 1  # without a seed each draw differs, as OpenAI's do
        assert text(extra_body={"top_k": 1}) == [greedy]
        narrow = Sampling(temperature=2, top_p=0.5, seed=3)
        assert text(temperature=2, top_p=0.5, seed=3) == [alone(generator, "the cat", 12, sampling=narrow)]


def test_health(tiny: Running) -> None:
    health = tiny.get("health")
    assert health.status_code == 200 and health.json()["runs_on"].startswith("ONNX Runtime")
    before = tiny.count("generated_tokens")
    assert tiny.post({"prompt": "the", "max_tokens": 5}).status_code == 200
    assert tiny.count("generated_tokens") == before + 5


@pytest.mark.parametrize(
    ("language", "command"), [("sh", ["bash", "-ec"]), ("python", [sys.executable, "-c"])]
)
def test_the_examples_of_the_readme(tiny: Running, language: str, command: list[str]) -> None:
    text = SERVE.with_name("README.md").read_text()
    (example,) = [
        body
        for kind, body in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
        if kind == language and "http://127.0.0.1:8000" in body
    ]
    here = example.replace("http://127.0.0.1:8000", tiny.url).replace("smollm2", "tiny")
    done = subprocess.run([*command, here], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip().endswith("data: [DONE]") if language == "sh" else len(done.stdout.split()) == 32
    )


def test_log_probabilities(tiny: Running, generator: Generator) -> None:
    """The server gives the model's log probabilities in both of OpenAI's formats, whole and streamed."""
    pieces = list(generator.stream(["the cat"], new_tokens=5, logprobs=2))
    values = [piece.logprob for piece in pieces]
    assert [piece.top[0] for piece in pieces] == [(piece.token, piece.logprob) for piece in pieces]  # greedy
    decoding = generator.decoder.start(*pad_left([generator.encode("the cat")]), 0)
    expected = torch.from_numpy(decoding.logits[0]).double().log_softmax(0)
    assert values[0] == pytest.approx(float(expected.max()), abs=1e-9)
    assert pieces[0].top[1][1] == pytest.approx(float(expected.topk(2).values[1]), abs=1e-9)
    with tiny.client as client:
        asked: Any = {"model": "tiny", "prompt": "the cat", "max_tokens": 5}
        choice = client.completions.create(**asked, logprobs=2).choices[0]
        found = choice.logprobs
        assert found and found.token_logprobs == values and found.tokens == choice.text.split()
        assert [len(top) for top in found.top_logprobs or []] == [2] * 5
        lengths = [len(token) for token in found.tokens or []]
        assert found.text_offset == [sum(lengths[:i]) for i in range(5)]
        chunks = list(client.completions.create(**asked, logprobs=0, stream=True))
        assert [v for c in chunks for v in c.choices[0].logprobs.token_logprobs or []] == values  # type: ignore[union-attr]
        assert [o for c in chunks for o in c.choices[0].logprobs.text_offset or []] == found.text_offset  # type: ignore[union-attr]
        chat: Any = {"model": "tiny", "messages": [{"role": "user", "content": "cat"}], "max_tokens": 4}
        said = client.chat.completions.create(**chat, logprobs=True, top_logprobs=3).choices[0].logprobs
        assert said and said.content and len(said.content) == 4
        for token in said.content:
            assert bytes(token.bytes or []).decode() == token.token and len(token.top_logprobs) == 3
            assert token.logprob == token.top_logprobs[0].logprob
        assert client.chat.completions.create(**chat).choices[0].logprobs is None


def test_padded_vocabularies_have_log_probabilities(generator: Generator) -> None:
    """A model's vocabulary is often larger than its tokenizer's, and the model may choose any of its rows."""
    beyond = len(generator.tokenizer)
    piece = Piece(0, beyond, "", Finish.LENGTH, -0.5, ((beyond, -0.5), (2, -1.0)))

    async def pieces() -> AsyncIterator[Piece]:
        yield piece

    messages = [{"role": "user", "content": "the"}]
    for kind, asked in (
        (CompletionRequest, {"prompt": "the", "logprobs": 2}),
        (ChatRequest, {"messages": messages, "logprobs": True, "top_logprobs": 2}),
    ):
        body = parse(kind, json.dumps({"model": "tiny", **asked}).encode())
        reply = Reply(body, "tiny", 1, 1, generator.tokenizer)
        (choice,) = asyncio.run(reply.whole(pieces()))["choices"]
        found = choice["logprobs"]
        texts = found["tokens"] if "tokens" in found else [token["token"] for token in found["content"]]
        assert texts == [""]


def test_penalties(tiny: Running, generator: Generator) -> None:
    """A large penalty lets no token come twice, as long as there are others."""
    with tiny.client as client:
        asked: Any = {"model": "tiny", "prompt": "the cat", "max_tokens": 8}
        plain = client.completions.create(**asked).choices[0].text
        favoured = client.completions.create(**asked, presence_penalty=-2).choices[0].text
        penalised = (
            client.completions.create(**asked, frequency_penalty=2, presence_penalty=2).choices[0].text
        )
    assert plain == alone(generator, "the cat", 8)
    assert favoured == alone(generator, "the cat", 8, sampling=Sampling(presence_penalty=-2))
    words = [len(set(text.split())) for text in (favoured, plain, penalised)]
    assert words == sorted(words) and words[0] < words[2]
