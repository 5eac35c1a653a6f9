"""Tiny builds, each made once: a model with full attention, and a model whose window is shorter than its text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builds import TINY, build
from tests.conftest import texts_in, write_model

OutOf = Callable[..., Path]
# TensorRT-RTX has attention for heads of 32; the other model keeps its odd heads.
_SIZES = {"llama": {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}}


@pytest.fixture(scope="session")
def out_of(tmp_path_factory: pytest.TempPathFactory) -> OutOf:
    """out_of("llama") and out_of("llama", "bfloat16") return the OUT of such a build, which has no engine."""
    built: dict[tuple[str, str], Path] = {}

    def out(model_type: str, dtype: str = "float16") -> Path:
        if (model_type, dtype) not in built:
            root = tmp_path_factory.mktemp(model_type)
            model = write_model(
                root / "model", model_type, max_position_embeddings=96, **_SIZES.get(model_type, {})
            )
            texts = texts_in(root)
            build({"model": model, "out": root / "out", "ratio": 0.4, "dtype": dtype, **texts, **TINY})
            built[model_type, dtype] = root / "out"
        return built[model_type, dtype]

    return out
