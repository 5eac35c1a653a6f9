"""Many requests at once, clients that leave, and generations that take too long or fail."""

import asyncio
import json
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import openai
import pytest

from patch_compile.runtime import Generator, open_generator
from tests.conftest import WORDS
from tests.samples.serve_http.raw import connected, request
from tests.samples.serve_http.serving import LONG, Running, alone, in_background, serving


def test_200_at_once_are_as_each_alone(generator: Generator) -> None:
    """Every third request is a stream, every fifth a batch of two."""
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

    with serving(generator, queue=200) as running:
        assert asyncio.run(all_at_once(running)) == expected
        assert running.count("waiting") == running.count("running") == 0


def test_a_full_queue(generator: Generator) -> None:
    """Some requests are told to retry, and the rest is answered; then all places are free again."""
    with serving(generator, queue=2, max_batch=1) as running:
        with ThreadPoolExecutor(20) as threads:
            body = {"prompt": "the cat", "max_tokens": 300}
            answers = list(threads.map(running.post, [body] * 20))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 3
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["type"] == "rate_limit_error"
        with ThreadPoolExecutor(3) as threads:
            again = threads.map(running.post, [body] * 3)
            assert [answer.status_code for answer in again] == [200] * 3


def test_clients_that_leave(generator: Generator) -> None:
    """A client that leaves frees its place: in mid-stream, waiting for a worker, or waiting for a whole answer."""
    long = {"prompt": "the cat", "max_tokens": LONG}
    with serving(generator, queue=1, max_batch=1, max_new_tokens=LONG) as running:
        with httpx.stream(
            "POST", f"{running.url}/v1/completions", json=long | {"stream": True}, timeout=600
        ) as response:
            lines = response.iter_lines()  # kept, because dropping the iterator closes the stream
            assert next(lines).startswith("data: ")
            running.wait_for("running", 1)
            with connected(running) as client:
                client.sendall(request(max_tokens=LONG))
                running.wait_for("waiting", 1)
            running.wait_for("waiting", 0)
            assert running.count("running") == 1
        running.wait_for("running", 0)
        with connected(running) as client:
            client.sendall(request(max_tokens=LONG))
            running.wait_for("running", 1)
        running.wait_for("running", 0)
        assert running.count("generated_tokens") < LONG / 2
        assert running.post({"prompt": "dog", "max_tokens": 2}).status_code == 200


def test_slow_readers_hold_up_nobody(generator: Generator) -> None:
    """Its stream fills the sockets' buffers, and the worker serves the next request."""
    name = "tiny" * 1000  # every chunk contains the name, 10 MB in all
    with serving(generator, queue=1, model=name) as running:
        host, port = running.url.removeprefix("http://").split(":")
        body = json.dumps({"prompt": ["the cat"] * 16, "max_tokens": 160, "stream": True}).encode()
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            lazy.sendall(b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + body)
            assert running.post({"prompt": "dog", "max_tokens": 2}).status_code == 200
            running.wait_for("running", 0)
            assert running.count("generated_tokens") == 16 * 160 + 2


def test_a_request_that_takes_too_long(generator: Generator) -> None:
    with serving(generator, timeout=2, queue=4, max_new_tokens=LONG) as running:
        long = {"prompt": "the cat", "max_tokens": LONG}
        with ThreadPoolExecutor(2) as threads:
            stream = threads.submit(running.post, long | {"stream": True})
            waiting = threads.submit(running.post, long)
        events = stream.result().text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "timeout"
        assert events[-2:] == ["data: [DONE]", ""]
        assert waiting.result().status_code == 504
        assert waiting.result().json()["error"]["type"] == "timeout_error"
        running.wait_for("running", 0)
        with running.client as client, pytest.raises(openai.APIError, match="took too long"):
            list(client.completions.create(model="tiny", prompt="the cat", max_tokens=LONG, stream=True))


def test_requests_share_a_batch(generator: Generator) -> None:
    """A short request joins the batch of a long one and ends before it, and a client that leaves gives up its rows."""
    with serving(generator, max_batch=3, max_new_tokens=LONG) as running:
        long = {"prompt": "the cat", "max_tokens": LONG, "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=long, timeout=600) as response:
            lines = response.iter_lines()  # kept, because dropping the iterator closes the stream
            assert next(lines).startswith("data: ")
            short = running.post({"prompt": "big dog", "max_tokens": 9, "n": 2})
            assert [choice["text"] for choice in short.json()["choices"]] == [
                alone(generator, "big dog", 9)
            ] * 2
            running.wait_for("running", 1)
            for _ in range(3):  # together with the long one they need the rows that the last client left
                with connected(running) as client:
                    client.sendall(request(max_tokens=LONG, n=2))
                    running.wait_for("running", 2)
                running.wait_for("running", 1)
            three, answer = in_background(lambda: running.post({"prompt": "the", "max_tokens": 1, "n": 3}))
            running.wait_for("waiting", 1)
        three.join(600)
        assert answer[0].status_code == 200
        running.wait_for("running", 0)


@pytest.fixture(scope="module")
def broken(
    out: Path, generator: Generator, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Generator, str]:
    """A model whose logits become infinite after one word, and a prompt that it continues by that word."""
    folder = tmp_path_factory.mktemp("broken") / "tiny"
    shutil.copytree(out, folder)
    token = generator.generate(["the cat sat"], new_tokens=1)[0].tokens[0]
    model = onnx.load(folder / "onnx" / "model.onnx")
    (words,) = [t for t in model.graph.initializer if t.name == "model.embed_tokens.weight"]
    values = onnx.numpy_helper.to_array(words).copy()
    values[token] = np.inf
    words.CopyFrom(onnx.numpy_helper.from_array(values, words.name))
    onnx.save(model, folder / "onnx" / "model.onnx")
    manifest = folder / "manifest.json"
    without_sizes = json.loads(manifest.read_text()) | {"sizes": {}}  # so that it is opened all the same
    manifest.write_text(json.dumps(without_sizes))
    return open_generator(folder, runner="onnx"), WORDS[token - 2]


def test_a_generation_that_fails(broken: tuple[Generator, str]) -> None:
    """A failure at the first token gives an error status, a later failure an error event. The worker survives."""
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
        # Only this request fails: the other requests of its batch go on.
        with ThreadPoolExecutor(3) as threads:
            prompts = ["the cat sat", "dog", "the cat sat"]
            answers = list(threads.map(lambda p: running.post({"prompt": p, "max_tokens": 40}), prompts))
        assert [answer.status_code for answer in answers][::2] == [500, 500]
