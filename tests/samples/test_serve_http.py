"""samples/serve_http: its own HTTP, with OpenAI's client, on a tiny model that ONNX Runtime runs."""

import asyncio
import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import openai
import pytest
import uvicorn
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from masklearn.coverage import covered_linears
from masklearn.maskset import MaskSet
from patch_compile.compiling import compile_model
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.runtime import Generator, Sampling, open_generator
from patch_compile.runtime.decoder import Limits
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from samples.serve_http import server as module
from samples.serve_http.app import make_app
from samples.serve_http.scheduler import Scheduler
from samples.serve_http.server import Server
from samples.serve_http.settings import Settings
from tests.conftest import WORDS, write_model
from tests.mosaics import random_mask

SERVE = Path(module.__file__).with_name("serve.sh")
POSITIONS = 16384
LONG = 12000  # tokens, some ten seconds: what must be ended before its own end
TEMPLATE = (
    "{% for m in messages %}{{ 'red ' if m.role == 'user' else 'big ' }}{{ m.content }} {% endfor %}"
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('the user speaks last') }}{% endif %}house"
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a model that never ends a text by itself, and has a chat template."""
    root = tmp_path_factory.mktemp("serve")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 22}
    model = write_model(root / "model", "llama", eos_token_id=1, max_position_embeddings=POSITIONS, **sizes)
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"][:2] = (
        0  # <unk> and <s>: of the others one is always likelier, and each has a text
    )
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    linears = covered_linears(model).linears
    masks = {name: random_mask(shape, (64, 64), 0.6, 0)[0] for name, shape in linears.items()}
    MaskSet(masks, method="random", seed=0, base_model="", base_sha256="", ratio_asked=0.3).save(
        root / "masks"
    )
    settings = {"model": model, "mask": root / "masks", "out": root / "tiny", "backend": "onnx"}
    compile_model(Recipe.parse(settings | {"lowering": "plugin"}))
    return root / "tiny"


@pytest.fixture(scope="module")
def generator(out: Path) -> Generator:
    return open_generator(out, runner="onnx")


@dataclass
class Running:
    """A server that answers."""

    url: str
    log: Path | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, body: Any, path: str = "completions") -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json=body, timeout=60)

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf"^patch_compile_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is not in\n{text}"
        return float(found[1])

    def wait_for(self, name: str, value: float, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while (is_ := self.metric(name)) != value:
            assert time.monotonic() < end, f"{name} is {is_} after {seconds} s, and not {value}"
            time.sleep(0.02)


@contextmanager
def serving(generator: Generator, **settings: Any) -> Iterator[Running]:
    """The server in a thread, with the settings that a test needs; at the end it drains."""
    limits = Settings.model_validate({"model": "tiny", "grace": 0} | settings)
    scheduler = Scheduler(generator, limits)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(generator, limits, scheduler), log_config=None)
    server = Server(config, scheduler)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Running(url)
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def tiny(generator: Generator) -> Iterator[Running]:
    with serving(generator, queue=300) as running:
        yield running


@contextmanager
def process(out: Path, log: Path, *options: str) -> Iterator[Running]:
    """The server by serve.sh, on a free port."""
    with log.open("w") as stderr:
        command = [SERVE, out, "--port", "0", "--runner", "onnx", *options]
        # From another folder, as a user may.
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=log.parent)
    try:
        assert started.stdout
        line = started.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), log.read_text()
        yield Running(line.partition("/v1 serves tiny")[0], log, started)
    finally:
        started.kill()
        started.wait()


def alone(generator: Generator, prompt: Any, new_tokens: int, **settings: Any) -> str:
    return generator.generate([prompt], new_tokens=new_tokens, **settings)[0].text


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
        # Without a number, OpenAI's.
        assert client.completions.create(model="tiny", prompt="dog").usage.completion_tokens == 16
        assert client.models.list().data[0].id == client.models.retrieve("tiny").id == "tiny"


def test_many_prompts_and_n(tiny: Running, generator: Generator) -> None:
    """Choices are in the order of the prompts, n of each; a prompt counts once."""
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
    assert finishes == [[None] * 6 + ["length"]] * 2  # piece by piece, not at the end
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
        # What the client made of an answer goes back as it is, and OpenAI's defaults ask for nothing.
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
    """max_new_tokens is what a chat gets that names no number, and the most that any may ask for."""
    with serving(generator, max_new_tokens=40) as running:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "the"}]}
        assert running.post(body, "chat/completions").json()["usage"]["completion_tokens"] == 40
        refused = running.post(body | {"max_tokens": 41}, "chat/completions")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


def test_sampling(generator: Generator) -> None:
    """The model's own settings where the client gives none; a seed repeats a draw, and rows differ."""
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
        assert len({text()[0] for _ in range(4)}) > 1  # without a seed each draw is another, as OpenAI has it
        assert text(extra_body={"top_k": 1}) == [greedy]
        narrow = Sampling(temperature=2, top_p=0.5, seed=3)
        assert text(temperature=2, top_p=0.5, seed=3) == [alone(generator, "the cat", 12, sampling=narrow)]


@pytest.mark.parametrize("workers", [1, 2])
def test_200_at_once_are_as_each_alone(generator: Generator, workers: int) -> None:
    """Every third as a stream, every fifth a batch of two."""
    asked = [
        (" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 2 + i % 9)), 3 + i % 11) for i in range(200)
    ]
    expected = [alone(generator, prompt, tokens) for prompt, tokens in asked]
    assert len(set(expected)) > 100

    async def ask(client: openai.AsyncOpenAI, i: int) -> str:
        prompt, tokens = asked[i]
        if i % 3 == 0:
            chunks = await client.completions.create(
                model="tiny", prompt=prompt, max_tokens=tokens, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in chunks])
        n = 2 if i % 5 == 0 else 1
        got = await client.completions.create(model="tiny", prompt=prompt, max_tokens=tokens, n=n)
        assert len({choice.text for choice in got.choices}) == 1
        return got.choices[0].text

    async def all_at_once(running: Running) -> list[str]:
        async with running.async_client as client:
            return list(await asyncio.gather(*(ask(client, i) for i in range(200))))

    with serving(generator, workers=workers, queue=200) as running:
        assert asyncio.run(all_at_once(running)) == expected
        assert running.metric('generations_total{outcome="finished"}') == 200
        assert running.metric("waiting") == running.metric("running") == 0


def test_a_full_queue(generator: Generator) -> None:
    """Some are told to come again, and the rest is answered; then all places are free again."""
    with serving(generator, queue=2) as running:
        with ThreadPoolExecutor(20) as threads:
            body = {"prompt": "the cat", "max_tokens": 300}
            answers = list(threads.map(running.post, [body] * 20))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 3
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["type"] == "rate_limit_error"
        assert running.metric('responses_total{path="/v1/completions",status="429"}') == statuses.count(429)
        with ThreadPoolExecutor(3) as threads:
            again = threads.map(running.post, [body] * 3)
            assert [answer.status_code for answer in again] == [200] * 3


def test_clients_that_leave(generator: Generator) -> None:
    """In mid-stream, while waiting for a worker, and while waiting for a whole answer: each frees its place."""
    long = {"prompt": "the cat", "max_tokens": LONG}
    with serving(generator, queue=1, max_new_tokens=LONG) as running:
        with httpx.stream("POST", f"{running.url}/v1/completions", json=long | {"stream": True}) as response:
            lines = response.iter_lines()  # kept: an iterator that is dropped closes the stream
            assert next(lines).startswith("data: ")
            running.wait_for("running", 1)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{running.url}/v1/completions", json=long, timeout=0.3)
            running.wait_for("waiting", 0)  # the one that ran into its timeout had waited here
            assert running.metric("running") == 1
        running.wait_for("running", 0)
        assert running.metric("generated_tokens_total") < LONG / 2
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/completions", json=long, timeout=0.3)
        running.wait_for("running", 0)
        assert running.metric("generated_tokens_total") < LONG / 2
        assert running.metric('generations_total{outcome="disconnected"}') == 3
        assert running.metric('responses_total{path="/v1/completions",status="499"}') == 2
        assert running.post({"prompt": "dog", "max_tokens": 2}).status_code == 200


def test_a_client_that_does_not_read_holds_up_nobody(generator: Generator) -> None:
    """Its stream fills the sockets' buffers, and the worker goes on to the next."""
    name = "tiny" * 1000  # it is in every chunk: 10 MB in all
    with serving(generator, queue=1, model=name) as running:
        host, port = running.url.removeprefix("http://").split(":")
        body = json.dumps({"prompt": ["the cat"] * 16, "max_tokens": 160, "stream": True}).encode()
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            lazy.sendall(b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + body)
            assert running.post({"prompt": "dog", "max_tokens": 2}).status_code == 200
            assert running.metric("running") == 0
            assert running.metric("generated_tokens_total") == 16 * 160 + 2
            assert (
                running.metric('generations_total{outcome="finished"}') == 1
            )  # the lazy one is not answered
        running.wait_for('generations_total{outcome="finished"}', 1)
        running.wait_for('generations_total{outcome="disconnected"}', 1)


def test_a_request_that_takes_too_long(generator: Generator) -> None:
    with serving(generator, timeout=0.5, queue=4, max_new_tokens=LONG) as running:
        long = {"prompt": "the cat", "max_tokens": LONG}
        with ThreadPoolExecutor(2) as threads:
            stream = threads.submit(running.post, long | {"stream": True})
            running.wait_for("running", 1)
            waiting = threads.submit(running.post, long)
        events = stream.result().text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "timeout"
        assert events[-2:] == ["data: [DONE]", ""]
        assert waiting.result().status_code == 504
        assert waiting.result().json()["error"]["type"] == "timeout_error"
        running.wait_for("running", 0)
        assert running.metric('generations_total{outcome="timeout"}') == 2
        with running.client as client, pytest.raises(openai.APIError, match=r"longer than 0\.5 s"):
            list(client.completions.create(model="tiny", prompt="the cat", max_tokens=LONG, stream=True))


@pytest.fixture(scope="module")
def broken(
    out: Path, generator: Generator, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Generator, str]:
    """A model for which one word is infinite, and a prompt without it that it continues by it."""
    folder = tmp_path_factory.mktemp("broken") / "tiny"
    shutil.copytree(out, folder)
    token = generator.generate(["the cat sat"], new_tokens=1)[0].tokens[0]
    model = onnx.load(folder / "onnx" / "model.onnx")
    (words,) = [t for t in model.graph.initializer if t.name == "model.embed_tokens.weight"]
    values = onnx.numpy_helper.to_array(words).copy()
    values[token] = np.inf
    words.CopyFrom(onnx.numpy_helper.from_array(values, words.name))
    onnx.save(model, folder / "onnx" / "model.onnx")
    return open_generator(folder, runner="onnx"), WORDS[token - 2]


def test_a_generation_that_fails(broken: tuple[Generator, str]) -> None:
    """At its first token there is a status to say so; later there is an event. The worker goes on."""
    broken_generator, word = broken
    with serving(broken_generator) as running, running.client as client:
        with pytest.raises(openai.InternalServerError, match="logits are not finite") as caught:
            client.completions.create(model="tiny", prompt=word, max_tokens=3, stream=True)
        assert (caught.value.status_code, caught.value.code) == (500, "generation_failed")
        chunks = client.completions.create(model="tiny", prompt="the cat sat", max_tokens=3, stream=True)
        assert next(chunks).choices[0].text.strip() == word
        with pytest.raises(openai.APIError, match="logits are not finite"):
            next(chunks)
        whole = running.post({"prompt": "the cat sat", "max_tokens": 3})
        assert (whole.status_code, whole.json()["error"]["type"]) == (500, "server_error")
        assert running.post({"prompt": "the cat sat", "max_tokens": 1}).status_code == 200
        assert running.metric('generations_total{outcome="failed"}') == 3


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "the", "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": "the", "logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"prompt": "the", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": "the", "frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"prompt": "the", "no_such": 1}, "no_such", "unsupported_parameter"),
        (
            {"prompt": "the", "stream": True, "stream_options": {"x": 1}},
            "stream_options.x",
            "unsupported_parameter",
        ),
        ({"prompt": "the", "temperature": 2.1}, "temperature", "invalid_value"),
        ({"prompt": "the", "top_p": 0}, "top_p", "invalid_value"),
        ({"prompt": "the", "max_tokens": "3"}, "max_tokens", "invalid_value"),
        ({"prompt": "the", "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": "the", "n": True}, "n", "invalid_value"),
        ({"prompt": "the", "stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"prompt": ["the", 3]}, "prompt", "invalid_value"),
        ({"prompt": "the \ud800"}, "prompt", "invalid_value"),
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", None),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [3, 22]}, "prompt", None),
        ({"prompt": [-1]}, "prompt", None),
        ({"prompt": ["the"] * 17}, "prompt", None),
        ({"prompt": "the", "n": 17}, "n", None),
        ({"prompt": "the", "stream_options": {"include_usage": True}}, None, None),
    ],
)
def test_refused_by_name(tiny: Running, body: dict[str, Any], param: str | None, code: str | None) -> None:
    response = httpx.post(
        f"{tiny.url}/v1/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert (error["param"], error["code"]) == (param, code)
    assert set(error) == {"message", "type", "param", "code"} and error["message"]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "only parts of type text",
        ),
        ({"role": "tool", "content": "the"}, "messages.0.role"),
        ({"role": "user", "content": "the", "name": "me"}, "messages.0.name is not supported"),
        ({"role": "assistant", "content": "the"}, "the user speaks last"),
    ],
)
def test_messages_refused(tiny: Running, message: Any, says: str) -> None:
    with tiny.client as client, pytest.raises(openai.BadRequestError, match=says):
        client.chat.completions.create(model="tiny", messages=[message])


def test_all_that_is_unsupported_is_named(tiny: Running) -> None:
    with (
        tiny.client as client,
        pytest.raises(openai.BadRequestError, match="logprobs, presence_penalty are not"),
    ):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "the"}], logprobs=True, presence_penalty=1
        )


def test_what_is_beyond_the_limits(out: Path, generator: Generator) -> None:
    """The text of check_limits, with both numbers, before it waits for a worker."""
    decoder = OnnxDecoder(out / "onnx" / "model.onnx", Limits(batch=3, prompt=40, total=50))
    with serving(Generator(decoder, generator.tokenizer)) as running, running.client as client:

        def refused(**asked: Any) -> openai.BadRequestError:
            with pytest.raises(openai.BadRequestError) as caught:
                client.completions.create(model="tiny", **asked)
            return caught.value

        long = refused(prompt="the " * 38, max_tokens=13)
        assert (long.code, long.param) == ("context_length_exceeded", "prompt")
        assert "38 tokens of prompt and 13 new ones are more than 50" in str(long)
        assert "41 tokens is longer than the 40" in str(refused(prompt=["the", "the " * 41]))
        assert "2 prompts with n=2 are 4 sequences, and 3 go at once" in str(refused(prompt=["the"] * 2, n=2))
        assert running.metric("prompt_tokens_total") == 0
        # Who asks for no number is given what there is room for.
        for path, body, room in (
            ("completions", {"prompt": "the " * 38}, 12),
            ("chat/completions", {"messages": [{"role": "user", "content": "the"}]}, 47),
        ):
            assert running.post(body, path).json()["usage"]["completion_tokens"] == room


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(generator: Generator, chunked: bool) -> None:
    """413, whether its size is announced or not, and on the same connection the next is answered."""
    with serving(generator, max_body=10_000) as running, httpx.Client(base_url=running.url) as http:
        pieces: Any = (b" " * 100_000 for _ in range(30)) if chunked else b" " * 3_000_000
        response = http.post("/v1/completions", content=pieces, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
        assert "10000 that the server takes" in response.json()["error"]["message"]
        fits = json.dumps({"prompt": "the", "max_tokens": 1}).ljust(10_000).encode()
        headers = {"content-type": "application/json"}
        assert http.post("/v1/completions", content=fits, headers=headers).status_code == 200
        assert http.post("/v1/completions", content=fits + b" ", headers=headers).status_code == 413


def test_a_body_that_does_not_come(generator: Generator) -> None:
    with serving(generator, timeout=0.3) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            slow.settimeout(10)
            assert b" 408 " in slow.recv(4096)


@pytest.mark.parametrize("body", [b'{"prompt": "the",', b"", b"\xff\xfe", b"[" * 100_000, b'"the"', b"null"])
def test_malformed_json(tiny: Running, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{tiny.url}/v1/chat/completions", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


def test_what_is_not_there(tiny: Running) -> None:
    with tiny.client as client, pytest.raises(openai.NotFoundError, match="this server has tiny") as caught:
        client.completions.create(model="other", prompt="the")
    assert caught.value.code == "model_not_found"
    for response in (httpx.get(f"{tiny.url}/nope"), httpx.get(f"{tiny.url}/v1/completions")):
        assert response.status_code in (404, 405) and response.json()["error"]["message"]


def test_health_and_metrics(tiny: Running) -> None:
    health = httpx.get(f"{tiny.url}/health")
    assert health.status_code == 200 and health.json()["live"] and health.json()["ready"]
    assert health.json()["runs_on"].startswith("ONNX Runtime")
    before = tiny.metric("generated_tokens_total"), tiny.metric("first_token_seconds_count")
    assert tiny.post({"prompt": "the", "max_tokens": 5}).status_code == 200
    after = tiny.metric("generated_tokens_total"), tiny.metric("first_token_seconds_count")
    assert after == (before[0] + 5, before[1] + 1)


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(call()))
    thread.start()
    return thread, got


def test_sigterm_lets_requests_end(out: Path, tmp_path: Path) -> None:
    """Those in flight and those that wait are finished; meanwhile there are 503s, and the exit code is 0."""
    with process(out, tmp_path / "log", "--grace", "60") as running:
        assert running.process
        stream, got = in_background(
            lambda: running.post({"prompt": "the cat", "max_tokens": 1500, "stream": True})
        )
        running.wait_for("running", 1)
        whole, also = in_background(lambda: running.post({"prompt": "dog", "max_tokens": 4}))
        running.wait_for("waiting", 1)
        assert httpx.get(f"{running.url}/health/ready").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("running", 1)
        late = running.post({"prompt": "dog", "max_tokens": 4})
        health = httpx.get(f"{running.url}/health")
        assert httpx.get(f"{running.url}/health/ready").status_code == 503
        assert httpx.get(f"{running.url}/health/live").status_code == 200
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert health.status_code == 503 and health.json()["live"] and not health.json()["ready"]
        stream.join(60)
        whole.join(60)
        events = [json.loads(e[6:]) for e in got[0].text.split("\n\n") if e.startswith("data: {")]
        assert len(events) == 1500 and events[-1]["choices"][0]["finish_reason"] == "length"
        assert got[0].text.endswith("data: [DONE]\n\n")
        assert (also[0].status_code, also[0].json()["usage"]["completion_tokens"]) == (200, 4)
        assert running.process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_sigterm_beyond_the_grace_is_an_answer_too(out: Path, tmp_path: Path) -> None:
    """A stream ends by an event, what waits by a 503; the second signal would end an hour's grace, too."""
    options = "--grace", "3600", "--max-new-tokens", str(LONG)
    with process(out, tmp_path / "log", *options) as running:
        assert running.process
        long = {"prompt": "the cat", "max_tokens": LONG}
        stream, got = in_background(lambda: running.post(long | {"stream": True}))
        running.wait_for("running", 1)
        waiting = [
            in_background(lambda body=body: running.post(body)) for body in (long, long | {"stream": True})
        ]
        running.wait_for("waiting", 2)
        running.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{running.url}/health/ready").status_code == 200:
            time.sleep(0.02)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0
        for thread in (stream, *(thread for thread, _ in waiting)):
            thread.join(10)
        events = got[0].text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert 1 < len(events) < LONG and events[-2] == "data: [DONE]"
        assert [answer[0].status_code for _, answer in waiting] == [503, 503]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_grace_ends_by_itself(generator: Generator) -> None:
    """`serving` drains at its end, here with half a second."""
    with serving(generator, grace=0.5, max_new_tokens=LONG) as running:
        body = {"prompt": "the cat", "max_tokens": LONG, "stream": True}
        stream, got = in_background(lambda: running.post(body))
        running.wait_for("running", 1)
        began = time.monotonic()
    assert 0.5 <= time.monotonic() - began < 5
    stream.join(10)
    assert "shutting_down" in got[0].text and got[0].text.endswith("data: [DONE]\n\n")


def test_errors_of_the_command(out: Path, tmp_path: Path, generator: Generator) -> None:
    run = CliRunner().invoke
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(module.main, [str(out), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1 and "can't listen on 127.0.0.1" in result.output
    result = run(module.main, [str(tmp_path / "none"), "--port", "0"])
    assert result.exit_code == 1 and "there is no" in result.output
    result = run(module.main, [str(out), "--workers", "0"])
    assert result.exit_code == 2 and "--workers" in result.output
    one_at_a_time = copy.copy(generator.decoder)
    one_at_a_time.concurrent = False  # type: ignore[misc]
    with pytest.raises(PatchCompileError, match="one batch at a time"):
        module._check_decoder(Settings(model="tiny", workers=2), one_at_a_time)


def test_serve_sh_is_executable() -> None:
    assert os.access(SERVE, os.X_OK)


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
    done = subprocess.run([*command, here], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip().endswith("data: [DONE]") if language == "sh" else len(done.stdout.split()) == 32
    )
