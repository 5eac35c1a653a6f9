"""Requests that are refused, with errors in OpenAI's form."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from patch_compile.runtime import Generator
from patch_compile.runtime.decoder import Limits
from patch_compile.runtime.engine_decoder import EngineDecoder
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from tests.runtime.host_engine import HostDevice, HostEngine
from tests.samples.serve_http.serving import Running, serving

TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "the", "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": "the", "logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": "the", "logprobs": True}, "logprobs", "invalid_value"),
        ({"prompt": "the", "top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"prompt": "the", "tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"prompt": "the", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": "the", "frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
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
        ({"prompt": "the \ud800"}, None, "invalid_value"),  # half of a surrogate pair is not JSON text
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", None),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [3, 22]}, "prompt", None),
        ({"prompt": [-1]}, "prompt", None),
        ({"prompt": ["the"] * 17}, "prompt", None),
        ({"prompt": "the", "n": 17}, "n", None),
        ({"prompt": "the", "stream_options": {"include_usage": True}}, None, "invalid_value"),
    ],
)
def test_refused_by_name(tiny: Running, body: dict[str, Any], param: str | None, code: str | None) -> None:
    response = httpx.post(
        f"{tiny.url}/v1/completions",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
        timeout=600,
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
            "messages.0.content.0.image_url is not supported",
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
        pytest.raises(openai.BadRequestError, match="logit_bias, tools are not"),
    ):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "the"}], tools=[TOOL], logit_bias={"3": 1}
        )


def test_top_logprobs_need_logprobs(tiny: Running) -> None:
    with (
        tiny.client as client,
        pytest.raises(openai.BadRequestError, match="only allowed if logprobs is true"),
    ):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "the"}], top_logprobs=2
        )


def test_what_is_beyond_the_limits(out: Path, generator: Generator) -> None:
    """The refusal has the text of `Limits.check` with both numbers, and comes before waiting for a worker."""
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
        assert "2 prompts with n=2 are 4 sequences; at most 3" in str(refused(prompt=["the"] * 2, n=2))
        assert running.count("generated_tokens") == 0
        # without a number of tokens, an answer fills the room there is
        for path, body, room in (
            ("completions", {"prompt": "the " * 38}, 12),
            ("chat/completions", {"messages": [{"role": "user", "content": "the"}]}, 47),
        ):
            assert running.post(body, path).json()["usage"]["completion_tokens"] == room


def test_what_is_beyond_the_profiles_of_an_engine(out: Path, generator: Generator) -> None:
    """An engine in host memory is not run; the answer is 400 in OpenAI's form, and the next request is answered."""
    device = HostDevice()
    sizes = {"batch": (1, 1, 2), "sequence": (1, 8, 16)}
    profiles = [{**sizes, "past": (0, 0, 0)}, {**sizes, "sequence": (1, 1, 1), "past": (1, 16, 32)}]
    engine: Any = HostEngine(out / "onnx" / "model.onnx", device, profiles)
    decoder = EngineDecoder(engine, device, "host", generator.decoder.limits)
    with serving(Generator(decoder, generator.tokenizer)) as running:
        for body, param, said in (
            ({"prompt": "the " * 17}, "prompt", "A prompt of 17 tokens is longer than the 16"),
            ({"prompt": ["the"] * 3}, "prompt", "3 prompts with n=1 are 3 sequences; at most 2 run at once."),
            (
                {"prompt": "the " * 16, "max_tokens": 18},
                "prompt",
                "16 tokens of prompt and 18 new ones are more than 33",
            ),
        ):
            response = running.post(body)
            error = response.json()["error"]
            assert (response.status_code, error["type"], error["param"]) == (
                400,
                "invalid_request_error",
                param,
            )
            assert said in error["message"]
        assert device.held == 0
        answer = running.post({"prompt": ["the " * 16, "the cat"], "max_tokens": 17})
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 34


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(generator: Generator, chunked: bool) -> None:
    """The answer is 413, with or without a declared size, and the connection serves the next request."""
    with (
        serving(generator, max_body=10_000) as running,
        httpx.Client(base_url=running.url, timeout=600) as http,
    ):
        pieces: Any = (b" " * 100_000 for _ in range(30)) if chunked else b" " * 3_000_000
        response = http.post("/v1/completions", content=pieces, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
        assert "larger than the limit of 10000." in response.json()["error"]["message"]
        fits = json.dumps({"prompt": "the", "max_tokens": 1}).ljust(10_000).encode()
        headers = {"content-type": "application/json"}
        assert http.post("/v1/completions", content=fits, headers=headers).status_code == 200
        assert http.post("/v1/completions", content=fits + b" ", headers=headers).status_code == 413


@pytest.mark.parametrize("body", [b'{"prompt": "the",', b"", b"\xff\xfe", b"[" * 100_000, b'"the"', b"null"])
def test_malformed_json(tiny: Running, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{tiny.url}/v1/chat/completions", content=body, headers=headers, timeout=600)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


def test_what_is_not_there(tiny: Running) -> None:
    with tiny.client as client, pytest.raises(openai.NotFoundError, match="this server has tiny") as caught:
        client.completions.create(model="other", prompt="the")
    assert caught.value.code == "model_not_found"
    for response in (tiny.get("nope"), tiny.get("v1/completions")):
        assert response.status_code in (404, 405) and response.json()["error"]["message"]
