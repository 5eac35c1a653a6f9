"""A build of a tiny model, for the server's tests."""

from pathlib import Path

from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import covered_linears
from patch_compile.pipeline.compile import compile_model
from patch_compile.recipe import Recipe
from tests.conftest import write_model
from tests.mosaics import random_mask

POSITIONS = 16384


TEMPLATE = (
    "{% for m in messages %}{{ 'red ' if m.role == 'user' else 'big ' }}{{ m.content }} {% endfor %}"
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('the user speaks last') }}{% endif %}house"
)


def write_build(root: Path) -> Path:
    """Make OUT of a model with a chat template that never ends a text by itself."""
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
