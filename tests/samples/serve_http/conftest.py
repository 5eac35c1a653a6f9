"""A tiny model that ONNX Runtime runs, and a server for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from masklearn.checkpoint.coverage import covered_linears
from masklearn.masks.maskset import MaskSet
from patch_compile.build.compile import compile_model
from patch_compile.recipe import Recipe
from patch_compile.runtime import Generator, open_generator
from tests.conftest import write_model
from tests.mosaics import random_mask
from tests.samples.serve_http.serving import Running, serving

POSITIONS = 16384


TEMPLATE = (
    "{% for m in messages %}{{ 'red ' if m.role == 'user' else 'big ' }}{{ m.content }} {% endfor %}"
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('the user speaks last') }}{% endif %}house"
)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a model with a chat template that never ends a text by itself."""
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


@pytest.fixture(scope="session")
def generator(out: Path) -> Generator:
    return open_generator(out, runner="onnx")


@pytest.fixture(scope="session")
def tiny(generator: Generator) -> Iterator[Running]:
    with serving(generator, queue=300) as running:
        yield running
