"""All readers of bytes that others may have written. A new one joins the list of its module, and gets a corpus."""

from tests.attacks.fuzz.reader import Reader
from tests.attacks.fuzz.readers import (
    engines,
    masks,
    models,
    onnx_files,
    out,
    quantised,
    requests,
    settings,
    shown,
    texts,
)

__all__ = ["READERS"]

READERS: dict[str, Reader] = {
    reader.name: reader
    for module in (masks, models, quantised, texts, onnx_files, out, shown, engines, settings, requests)
    for reader in module.READERS
}
