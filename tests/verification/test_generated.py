"""Texts of the dense and the hybrid model equal the output of `run`, and are compared token by token."""

from pathlib import Path
from typing import Any

import pytest

from masklearn.base.durable import is_temporary
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.verify_schema import GeneratedText
from patch_compile.engine.backend import Runner
from patch_compile.runtime import Completion, Finish
from patch_compile.runtime.locate import open_generator
from patch_compile.runtime.sampling import Sampling
from patch_compile.verification.generated import _compared, dense_onnx, generated_diff
from tests.builds import build, recipe_alone
from tests.conftest import ModelMaker
from tests.refusals import refused


def diff(out: OutFolder, *prompts: str, tokens: int = 8) -> tuple[GeneratedText, ...]:
    return generated_diff(out, prompts, tokens, lambda *_: None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_each_prompt_is_continued_by_both(settings: dict[str, Any], dtype: str) -> None:
    build(settings | {"dtype": dtype})
    out = OutFolder.open(settings["out"])
    prompts = ("the cat sat", "dog ran far from the big red house")
    rows = diff(out, *prompts)
    assert [row.prompt for row in rows] == list(prompts)
    with dense_onnx(out, logits="last") as path:
        dense = open_generator(path, runner=Runner.ONNX, tokenizer=settings["model"])
        hybrid = open_generator(out.path, runner=Runner.ONNX)
        for row in rows:
            texts = [one.generate([row.prompt], Sampling(), new_tokens=8)[0].text for one in (dense, hybrid)]
            assert [row.dense, row.pruned] == texts
            assert row.tokens == 8 and 0 <= row.same_tokens <= 8
            assert (row.same_tokens == 8) == (texts[0] == texts[1])
    assert not [path for path in out.path.iterdir() if is_temporary(path.name)]
    with refused():
        diff(out, "the cat", "the cat " * 30)
    with refused():
        diff(out, "the cat", "")
    with refused():
        diff(out)


@pytest.mark.parametrize(
    ("dense", "pruned", "same", "longer"),
    [
        ([1, 2, 3], [1, 2, 3], 3, 3),
        ([1, 2, 3], [1, 5, 3], 1, 3),
        ([4, 2, 3], [1, 2, 3], 0, 3),
        ([1, 2], [1, 2, 3, 4], 2, 4),  # the dense model ended its text
    ],
)
def test_tokens_are_the_same_until_they_part(
    dense: list[int], pruned: list[int], same: int, longer: int
) -> None:
    row = _compared("a", *(Completion("", tokens, 1, Finish.LENGTH) for tokens in (dense, pruned)))
    assert (row.same_tokens, row.tokens) == (same, longer)


def test_what_continues_no_text_is_refused(make_model: ModelMaker, tmp_path: Path) -> None:
    encoder = recipe_alone(tmp_path / "encoder", make_model("bert"))
    with refused():
        diff(encoder, "the cat")
    graph = recipe_alone(tmp_path / "graph", tmp_path / "model.onnx")
    with refused():
        diff(graph, "the cat")
    learned = recipe_alone(tmp_path / "learned", make_model())
    with refused():
        diff(learned, "the cat")
