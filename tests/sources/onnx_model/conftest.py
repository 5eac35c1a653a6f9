from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.sources.onnx_model import graphs

_MODELS = {"mlp": graphs.mlp, "conv_net": graphs.conv_net, "encoder": graphs.encoder, "vit": graphs.vit}
Exported = Callable[[str, bool], Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """exported(name, dynamo) returns the file of a model of `graphs`, which is exported once."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(name: str, dynamo: bool) -> Path:
        return graphs.export(_MODELS[name], folder / f"{name}-{dynamo}.onnx", dynamo=dynamo)

    return export
