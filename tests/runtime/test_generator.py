"""Text that ONNX Runtime generates from a build, checked against transformers."""

import json
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from patch_compile.runtime import Finish, Generator, Sampling, engine_fit, open_generator
from tests.commands import run, run_here
from tests.refusals import refusal, refused
from tests.runtime.conftest import OutOf

PROMPTS = ["the cat sat on a mat", "big red", "birds sang low in the rain"]


@pytest.fixture
def generator(out_of: OutOf) -> Generator:
    return open_generator(out_of("llama"))


def rightly_chosen(
    model: Path,
    prompt: list[int],
    new: list[int],
    dtype: torch.dtype = torch.float16,
    tolerance: float = 0.01,
) -> bool:
    """True when each new token is the checkpoint's most likely token, up to rounding."""
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).float()
        logits = loaded(torch.tensor([prompt + new])).logits[0, len(prompt) - 1 : -1]
    lost = logits.max(-1).values - logits.gather(-1, torch.tensor(new)[:, None])[:, 0]
    return bool((lost < tolerance * logits.abs().max()).all())


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_batch_says_what_the_checkpoint_says(out_of: OutOf, kind: str) -> None:
    """Prompts of several lengths run together, and each gives the same text as on its own."""
    generator = open_generator(out_of(kind))
    together = generator.generate(PROMPTS, new_tokens=20, ignore_end=True)
    for prompt, one in zip(PROMPTS, together, strict=True):
        assert len(one.tokens) == 20 and one.finish == Finish.LENGTH
        assert one.prompt_tokens == len(prompt.split())
        assert rightly_chosen(out_of(kind) / "model", generator.encode(prompt), one.tokens)
        assert generator.tokenizer.decode(one.tokens, skip_special_tokens=True).strip() == one.text.strip()


def test_a_text_is_one_prompt_and_one_stop(generator: Generator) -> None:
    (whole,) = generator.generate("the cat", new_tokens=8)
    assert whole == generator.generate(["the cat"], new_tokens=8)[0]
    later = whole.text.split()[2]
    (ended,) = generator.generate("the cat", new_tokens=8, stop=later)
    assert (ended,) == (*generator.generate(["the cat"], new_tokens=8, stop=[later]),)


def test_a_build_in_bfloat16_runs_too(out_of: OutOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as a copy in fp32, with a note, and the copy is removed; without room it is refused."""
    out = out_of("llama", "bfloat16")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    generator = open_generator(out)
    assert "bfloat16, for which it has no kernels: computed in float32" in generator.about
    assert not any(tmp_path.iterdir())
    for prompt, one in zip(PROMPTS, generator.generate(PROMPTS, new_tokens=12, ignore_end=True), strict=True):
        ids = generator.encode(prompt)
        assert rightly_chosen(out / "model", ids, one.tokens, torch.bfloat16, tolerance=0.03)
    (tmp_path / "full").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with refused():
        open_generator(out)


def test_pieces_are_the_completion(generator: Generator) -> None:
    pieces = list(generator.stream(PROMPTS[:2], new_tokens=5, ignore_end=True))
    assert [(piece.row, piece.finish) for piece in pieces[-2:]] == [(0, "length"), (1, "length")]
    whole = generator.generate(PROMPTS[:2], new_tokens=5, ignore_end=True)
    for row in (0, 1):
        mine = [piece for piece in pieces if piece.row == row]
        assert "".join(piece.text for piece in mine) == whole[row].text
        assert [piece.token for piece in mine] == whole[row].tokens


def test_a_row_that_ends_leaves_the_others(generator: Generator) -> None:
    free = generator.generate(PROMPTS, new_tokens=12, ignore_end=True)
    end = free[0].tokens[3]
    ending = Generator(generator.decoder, generator.tokenizer, frozenset([end]))
    for before, now in zip(free, ending.generate(PROMPTS, new_tokens=12), strict=True):
        length = before.tokens.index(end) + 1 if end in before.tokens else 12
        assert now.tokens == before.tokens[:length]
        assert now.finish == (Finish.STOP if end in before.tokens else Finish.LENGTH)
    words = free[1].text.split()
    stopped = generator.generate(PROMPTS[1:2], new_tokens=12, stop=[words[2]], ignore_end=True)[0]
    assert stopped.text.split() == words[: words.index(words[2])] and stopped.finish == Finish.STOP


def test_closing_ends_the_stream(generator: Generator) -> None:
    alone = generator.generate(PROMPTS[:1], new_tokens=10, ignore_end=True)[0].tokens
    stream = generator.stream(PROMPTS[1:2], new_tokens=40)
    next(stream)
    found: list[list[int]] = []

    def other() -> None:
        found.append(generator.generate(PROMPTS[:1], new_tokens=10, ignore_end=True)[0].tokens)

    threads = [threading.Thread(target=other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    stream.close()
    assert found == [alone] * 3
    assert list(stream) == []


def test_settings_of_the_models_authors(out_of: OutOf, tmp_path: Path) -> None:
    """generation_config.json holds their sampling settings and the tokens that end a text."""
    model = tmp_path / "model"
    shutil.copytree(out_of("llama") / "model", model)
    onnx = out_of("llama") / "onnx/model.onnx"
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [4, 5]}
    (model / "generation_config.json").write_text(json.dumps(settings))
    generator = open_generator(onnx, tokenizer=model)
    assert generator.sampling == Sampling(0.6, 50, 0.9)
    assert generator.end_tokens == {4, 5}
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    assert open_generator(onnx, tokenizer=model).sampling == Sampling()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("generation_config.json", {"do_sample": True, "temperature": "hot"}),
        ("generation_config.json", {"do_sample": True, "temperature": -1.0}),
        ("generation_config.json", {"do_sample": True, "top_k": 1.5}),
        pytest.param(
            "generation_config.json", {"do_sample": True, "top_p": float("nan")}, id="The setting top_p = nan"
        ),
        ("generation_config.json", {"eos_token_id": {"a": 1}}),
        ("generation_config.json", [1]),
        ("config.json", {"max_position_embeddings": "many"}),
        ("config.json", {"text_config": 4}),
    ],
)
def test_settings_that_no_model_has(out_of: OutOf, tmp_path: Path, file: str, content: object) -> None:
    model = tmp_path / "model"
    shutil.copytree(out_of("llama") / "model", model)
    (model / file).write_text(json.dumps(content))
    with refused():
        open_generator(out_of("llama") / "onnx/model.onnx", tokenizer=model)


def test_a_conversation(generator: Generator) -> None:
    with refused():
        generator.encode_chat([{"role": "user", "content": "the cat"}])
    generator.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<s> {{ m.content }} {% endfor %}{% if add_generation_prompt %}sat{% endif %}"
    )
    said = generator.encode_chat([{"role": "user", "content": "the cat"}])
    assert generator.tokenizer.decode(said).split()[-3:] == ["the", "cat", "sat"]
    with refused():
        generator.encode_chat([{"role": "system", "content": "low"}])
    for faulty in ("{{ 1 / 0 }}", "{% for i in range(10**9) %}{% endfor %}", "{{ 4 + '' }}", "{% if %}"):
        generator.tokenizer.chat_template = faulty
        with refused():
            generator.encode_chat([{"role": "user", "content": "low"}])


def test_excess_names_both_numbers(generator: Generator) -> None:
    assert generator.decoder.limits.total == 96
    with refused():
        generator.generate(PROMPTS[:1], new_tokens=91)
    for prompts in ([], [""], [[3, 99]], [[-1]], ["\ud800"]):
        with refused():
            generator.stream(prompts)


def test_what_runs_it_is_said(
    out_of: OutOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: Generator
) -> None:
    """When the engine can't run, the ONNX file does, with the reason; `--runner engine` makes it an error."""
    assert generator.about.startswith("ONNX Runtime ") and "not its engine: there is none" in generator.about
    out = tmp_path / "out"
    shutil.copytree(out_of("llama"), out)
    (out / "engine").mkdir()
    (out / "engine/model.engine").write_bytes(b"an engine")
    monkeypatch.setattr(engine_fit, "local_gpu", lambda: None)
    assert "not its engine: no GPU answers" in open_generator(out).about
    assert "not its engine: it was not asked for" in open_generator(out, runner="onnx").about
    with refused():
        open_generator(out, runner="engine")


def test_what_is_no_build_is_refused(out_of: OutOf, tmp_path: Path) -> None:
    onnx = out_of("llama") / "onnx/model.onnx"
    with refused():
        open_generator(tmp_path / "nothing")
    with refused():
        open_generator(tmp_path)
    with refused():
        open_generator(out_of("llama") / "model/config.json")
    with refused():
        open_generator(out_of("llama") / "model")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").touch()
    with refused():
        open_generator(tmp_path)
    with refused():
        open_generator(onnx, tokenizer=tmp_path)


def test_the_command(out_of: OutOf) -> None:
    out = str(out_of("llama"))
    done = run("run", out, PROMPTS[0], "--new-tokens", "5")
    assert done.returncode == 0, done.stderr
    generator = open_generator(out)
    assert done.stdout.strip() == generator.generate(PROMPTS[:1], new_tokens=5)[0].text.strip()
    assert "runs on ONNX Runtime" in done.stderr and "tokens in" in done.stderr
    done = run_here("run", out, *PROMPTS, "--new-tokens", "4", "--temperature", "1", "--seed", "5", "--json")
    found = json.loads(done.stdout)
    assert [one["prompt"] for one in found["completions"]] == PROMPTS
    sampling = Sampling(temperature=1.0, seed=5)
    expected = generator.generate(PROMPTS, sampling, new_tokens=4)
    assert [one["tokens"] for one in found["completions"]] == [one.tokens for one in expected]
    assert found["ms_per_step"] > 0
    refusal(run_here("run", out, PROMPTS[0], "--new-tokens", "200"))
    assert np.isfinite(found["seconds"]["first_token"])


def test_a_cut_file_is_noticed(out_of: OutOf, tmp_path: Path) -> None:
    out = shutil.copytree(out_of("llama"), tmp_path / "out")
    data = out / "onnx/model.onnx.data"
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size - 4096)
    with refused():
        open_generator(out)


def test_a_flipped_bit_is_noticed_when_asked(out_of: OutOf, tmp_path: Path) -> None:
    out = shutil.copytree(out_of("llama"), tmp_path / "out")
    open_generator(out, check=True)
    with (out / "onnx/model.onnx.data").open("r+b") as file:
        bit = file.read(1)[0] ^ 1
        file.seek(0)
        file.write(bytes([bit]))
    with refused():
        open_generator(out, check=True)


def test_logits_that_are_not_finite_name_the_model(out_of: OutOf, tmp_path: Path) -> None:
    out = shutil.copytree(out_of("llama"), tmp_path / "damaged")
    model = onnx.load(out / "onnx/model.onnx")
    (words,) = [one for one in model.graph.initializer if one.name == "model.embed_tokens.weight"]
    values = onnx.numpy_helper.to_array(words)
    words.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.inf), words.name))
    onnx.save(model, out / "onnx/model.onnx")
    (out / "manifest.json").unlink()  # has the size of the model's file
    done = run_here("run", out, PROMPTS[0], "--runner", "onnx", "--new-tokens", "2")
    refusal(done)
