"""Answers of the server to OpenAI's client, its refusals, and clients that do harm."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import openai
import pytest
from click.testing import CliRunner

from patch_compile.runtime import Generator, Sampling, open_generator
from patch_compile.runtime.decoder import Limits
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from samples.serve_http import server as module
from tests.conftest import WORDS
from tests.samples.serve_http.raw import EXTREMES, HEAD, connected, request, to_the_end
from tests.samples.serve_http.serving import LONG, SERVE, Running, in_background, process, serving
from tests.work import until

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "the cat sat", "max_tokens": 9}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "the dog"}]}


def alone(generator: Generator, prompt: str, new_tokens: int, **settings: Any) -> str:
    return generator.generate([prompt], new_tokens=new_tokens, **settings)[0].text


def test_completion(tiny: Running, generator: Generator) -> None:
    text, ids = alone(generator, "the cat sat", 9), generator.encode("the cat sat")
    with tiny.client as client:
        answer = client.completions.create(**ASKED)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, "length")
        assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 9)
        assert client.completions.create(**ASKED | {"prompt": ids}).choices[0].text == text
        asked = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = client.completions.create(**asked)
        assert "".join(chunk.choices[0].text for chunk in chunks) == text and len(chunks) == 9
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 8 + ["length"]
        assert last.choices == [] and last.usage.total_tokens == 12 and chunks[0].usage is None
        # without a number of tokens, OpenAI's default
        assert client.completions.create(model="tiny", prompt="dog").usage.completion_tokens == 16
        assert [one.id for one in client.models.list().data] == ["tiny"]
    assert tiny.get("health").json()["runs_on"].startswith("ONNX Runtime")


def test_stop(tiny: Running, generator: Generator) -> None:
    whole = alone(generator, "the cat sat", 12)
    word = next(w for w in whole.split() if whole.split().index(w) > 1)
    asked = ASKED | {"max_tokens": 12, "stop": ["no", word]}
    with tiny.client as client:
        choice = client.completions.create(**asked).choices[0]
        choices = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(word)], "stop")
    assert "".join(c.text for c in choices) == choice.text and choices[-1].finish_reason == "stop"


def test_chat(tiny: Running, generator: Generator) -> None:
    text = alone(generator, "red the dog house", 8)
    with tiny.client as client:
        answer = client.chat.completions.create(**CHAT, max_completion_tokens=8)
        message = answer.choices[0].message
        assert (message.content, message.role, answer.usage.prompt_tokens) == (text, "assistant", 4)
        chunks = list(client.chat.completions.create(**CHAT, max_tokens=8, stream=True))
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) == text
        # The client's answer object can be sent back unchanged.
        again = [*CHAT["messages"], message, {"role": "user", "content": "mat"}]
        answer = client.chat.completions.create(model="tiny", messages=again, max_tokens=3)
    assert answer.choices[0].message.content == alone(generator, f"red the dog big {text} red mat house", 3)


def test_log_probabilities(tiny: Running, generator: Generator) -> None:
    """In both of OpenAI's formats, whole and streamed."""
    pieces = list(generator.stream(["the cat sat"], new_tokens=9, logprobs=2))
    values = [piece.logprob for piece in pieces]
    with tiny.client as client:
        choice = client.completions.create(**ASKED, logprobs=2).choices[0]
        found = choice.logprobs
        assert found and found.token_logprobs == values and found.tokens == choice.text.split()
        assert [len(top) for top in found.top_logprobs or []] == [2] * 9
        assert found.text_offset == [sum(map(len, found.tokens[:i])) for i in range(9)]
        chunks = list(client.completions.create(**ASKED, logprobs=0, stream=True))
        assert [v for c in chunks for v in c.choices[0].logprobs.token_logprobs or []] == values  # type: ignore[union-attr]
        assert [o for c in chunks for o in c.choices[0].logprobs.text_offset or []] == found.text_offset  # type: ignore[union-attr]
        said = client.chat.completions.create(**CHAT, max_tokens=4, logprobs=True, top_logprobs=3)
        content = said.choices[0].logprobs.content  # type: ignore[union-attr]
        assert content and len(content) == 4
        for token in content:
            assert bytes(token.bytes or []).decode() == token.token and len(token.top_logprobs) == 3
            assert token.logprob == token.top_logprobs[0].logprob
        assert client.chat.completions.create(**CHAT, max_tokens=1).choices[0].logprobs is None


def test_sampling(generator: Generator) -> None:
    """The model's settings hold when the client gives none, and a seed repeats a draw."""
    sampled = Generator(
        generator.decoder, generator.tokenizer, generator.end_tokens, Sampling(temperature=1.5, seed=7)
    )
    with serving(sampled) as running, running.client as client:

        def text(**given: Any) -> str:
            return client.completions.create(**ASKED | given).choices[0].text

        greedy = alone(generator, "the cat sat", 9)
        assert text(temperature=0) == text(extra_body={"top_k": 1}) == greedy
        assert text(seed=7) == alone(sampled, "the cat sat", 9) != greedy
        assert text(seed=-5) == text(seed=-5)
        assert len({text() for _ in range(4)}) > 1  # without a seed each draw differs, as OpenAI's do


@pytest.mark.parametrize(
    ("language", "command"), [("sh", ["bash", "-ec"]), ("python", [sys.executable, "-c"])]
)
def test_the_examples_of_the_readme(tiny: Running, language: str, command: list[str]) -> None:
    text = SERVE.with_name("README.md").read_text()
    (example,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    here = example.replace("http://127.0.0.1:8000", tiny.url).replace("smollm2", "tiny")
    done = subprocess.run([*command, here], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip().endswith("data: [DONE]") if language == "sh" else len(done.stdout.split()) == 32
    )


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b'{"prompt": "the", "best_of": 2, "tools": [1]}', "best_of", "unsupported_parameter"),
        (b'{"prompt": "the", "logprobs": 6}', "logprobs", "invalid_value"),
        (b'{"prompt": "the", "max_tokens": 4097}', "max_tokens", None),
        (b'{"prompt": ""}', None, None),
        (b'{"prompt": "the", "stream_options": {"x": 1}}', "stream_options.x", "unsupported_parameter"),
        (b"{}", "prompt", "invalid_value"),
        (b"[" * 100_000, None, "invalid_value"),
        (b"\xff\xfe", None, "invalid_value"),
    ],
)
def test_refused_by_name(tiny: Running, body: bytes, param: str | None, code: str | None) -> None:
    response = httpx.post(f"{tiny.url}/v1/completions", content=body, timeout=600)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert (error["param"], error["code"]) == (param, code) and error["message"]


def test_what_is_not_there(tiny: Running) -> None:
    with tiny.client as client, pytest.raises(openai.NotFoundError, match="this server has tiny") as caught:
        client.completions.create(model="other", prompt="the")
    assert caught.value.code == "model_not_found"
    for response in (tiny.get("nope"), tiny.get("v1/completions")):
        assert response.status_code in (404, 405) and response.json()["error"]["message"]


def test_what_is_beyond_the_limits(out: Path, generator: Generator) -> None:
    decoder = OnnxDecoder(out / "onnx" / "model.onnx", Limits(prompt=40, total=50))
    with serving(Generator(decoder, generator.tokenizer)) as running:
        for tokens, more in ((38, 13), (41, 1), (4097, 1)):
            answer = running.post({"prompt": "the " * tokens, "max_tokens": more})
            assert answer.status_code == 400
        # without a number of tokens, an answer fills the room there is
        assert running.post({"prompt": "the " * 38}).json()["usage"]["completion_tokens"] == 12
        assert running.post(CHAT, "chat/completions").json()["usage"]["completion_tokens"] == 46
        for body in (b" " * 3_000_000, iter([b" " * 100_000] * 30)):
            answer = httpx.post(f"{running.url}/v1/completions", content=body, timeout=600)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_requests_wait_for_each_other(generator: Generator) -> None:
    """Some requests are told to retry, and the rest is answered; then all places are free again."""
    body, text = {"prompt": "the cat", "max_tokens": 300}, alone(generator, "the cat", 300)
    with serving(generator, queue=2) as running, ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(running.post, [body] * 20))
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
            else:
                assert answer.json()["choices"][0]["text"] == text
        again = threads.map(running.post, [body] * 3)
        assert [answer.status_code for answer in again] == [200] * 3


def test_clients_that_leave(generator: Generator) -> None:
    """A client that leaves frees its place: in mid-stream, waiting for its turn, or waiting for a whole answer."""
    long = {"prompt": "the cat", "max_tokens": LONG, "stream": True}
    with serving(generator, queue=1, max_new_tokens=LONG) as running:
        with httpx.stream("POST", f"{running.url}/v1/completions", json=long, timeout=600) as response:
            lines = response.iter_lines()  # kept, because dropping the iterator closes the stream
            assert next(lines).startswith("data: ")
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
        assert running.post({"prompt": "dog", "max_tokens": 2}).status_code == 200


def test_slow_readers_hold_up_nobody(generator: Generator) -> None:
    model = "tiny" * 1000  # every chunk contains the name, 10 MB in all
    with serving(generator, queue=1, model=model) as running, connected(running) as lazy:
        lazy.sendall(request(max_tokens=2500, stream=True))
        assert running.post({"prompt": "dog", "max_tokens": 2}).status_code == 200
        running.wait_for("running", 0)


def test_a_request_that_takes_too_long(generator: Generator) -> None:
    long = {"prompt": "the cat", "max_tokens": LONG}
    with serving(generator, timeout=2, max_new_tokens=LONG) as running:
        with ThreadPoolExecutor(2) as threads:
            stream = threads.submit(running.post, long | {"stream": True})
            until(lambda: running.count("running") == 1, "the stream has not begun")
            waiting = threads.submit(running.post, long)
        events = stream.result().text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "timeout"
        assert events[-2:] == ["data: [DONE]", ""]
        assert waiting.result().status_code == 504
        running.wait_for("running", 0)


def test_a_generation_that_fails(out: Path, generator: Generator, tmp_path: Path) -> None:
    """A failure at the first token gives an error status, a later failure an error event. The server survives."""
    shutil.copytree(out, tmp_path / "tiny")
    token = generator.generate(["the cat sat"], new_tokens=1)[0].tokens[0]
    model = onnx.load(tmp_path / "tiny/onnx/model.onnx")
    (words,) = [t for t in model.graph.initializer if t.name == "model.embed_tokens.weight"]
    values = onnx.numpy_helper.to_array(words).copy()
    values[token] = np.inf
    words.CopyFrom(onnx.numpy_helper.from_array(values, words.name))
    onnx.save(model, tmp_path / "tiny/onnx/model.onnx")
    manifest = tmp_path / "tiny/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sizes": {}}))  # so that it is opened
    word = WORDS[token - 2]
    with serving(open_generator(tmp_path / "tiny", runner="onnx")) as running, running.client as client:
        with pytest.raises(openai.InternalServerError, match="logits are not finite") as caught:
            client.completions.create(model="tiny", prompt=word, max_tokens=3, stream=True)
        assert (caught.value.status_code, caught.value.code) == (500, "generation_failed")
        chunks = client.completions.create(**ASKED, stream=True)
        assert next(chunks).choices[0].text.strip() == word
        with pytest.raises(openai.APIError, match="logits are not finite"):
            next(chunks)
        assert running.post({"prompt": "the cat sat", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("given", EXTREMES, ids=lambda given: given[:40])
def test_extreme_values(tiny: Running, given: str) -> None:
    """The answer is a result or a refusal in OpenAI's format."""
    defaults = "" if '"max_tokens"' in given else '"max_tokens": 8, '
    body = f'{{"prompt": "the cat sat", {defaults}{given}}}'
    answer = httpx.post(f"{tiny.url}/v1/completions", content=body.encode(), timeout=600)
    if answer.status_code == 200:
        assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")
    else:
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"POST /v1/completions HTTP/1.1\r\nX-Slow: ", b""),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b" 408 "),
        (request() + b"GET /health HTTP/1.1\r\nX-Slow: ", b" 200 "),
    ],
    ids=["silent", "headers", "body", "second request"],
)
def test_slow_requests_lose_their_connection(generator: Generator, sent: bytes, answer: bytes) -> None:
    """The limit is on the whole request."""
    with serving(generator, client_timeout=1) as running, connected(running) as client:
        client.sendall(sent)
        assert answer in to_the_end(client).partition(b"\r\n")[0]


def test_sigterm_lets_requests_end(out: Path, tmp_path: Path) -> None:
    """A running and a waiting request are finished, and the exit code is 0."""
    with process(out, tmp_path / "log") as running:
        assert running.process
        long = {"prompt": "the cat", "max_tokens": 2000, "stream": True}
        stream, got = in_background(lambda: running.post(long))
        running.wait_for("running", 1)
        whole, also = in_background(lambda: running.post({"prompt": "dog", "max_tokens": 4}))
        running.wait_for("waiting", 1)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(600) == 0
        for thread in (stream, whole):
            thread.join(600)
        events = [json.loads(e[6:]) for e in got[0].text.split("\n\n") if e.startswith("data: {")]
        assert len(events) == 2000 and events[-1]["choices"][0]["finish_reason"] == "length"
        assert (also[0].status_code, also[0].json()["usage"]["completion_tokens"]) == (200, 4)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_errors_of_the_command(out: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(module.main, [str(out), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1 and "can't listen on 127.0.0.1" in result.output
    result = run(module.main, [str(tmp_path / "none"), "--port", "0"])
    assert result.exit_code == 1 and "does not exist" in result.output
