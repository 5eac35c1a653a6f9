"""Writes docs/reference/support.md (`make docs`): what works with what, from the tables that the program decides by."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from masklearn import IMPORTERS
from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR
from masklearn.model.known_architectures import ARCHITECTURES as KNOWN
from masklearn.model.quantised.base import QUANTISATIONS
from masklearn.quant.table import FLOAT16, WEIGHT_TYPES
from patch_compile.engine.backend import BackendName, load_backend
from patch_compile.hardware.cards import ARCHITECTURES, CARDS, GpuArchitecture, RatedCard
from patch_compile.plugin.targets import ARCHS, JETSONS, ptx_arch
from patch_compile.sources.base import ProvenSource, Source, TextSource, TokenSource, Weights
from patch_compile.sources.checkpoint.decoder import DecoderSource
from patch_compile.sources.checkpoint.encoder import EncoderSource
from patch_compile.sources.checkpoint_weights import CheckpointWeights
from patch_compile.sources.exported_graph.source import ExportedSource
from patch_compile.sources.onnx_model.source import OnnxSource

PAGE = Path(__file__).parent / "reference/support.md"
_SOURCES: dict[str, type[Source]] = {
    "decoder, a Hugging Face checkpoint": DecoderSource,
    "encoder, a Hugging Face checkpoint": EncoderSource,
    "ONNX file": OnnxSource,
    "checkpoint with a graph of another exporter (`compile --graph`)": ExportedSource,
}
_NEEDED: dict[str, type[Weights]] = {
    "`build`": ProvenSource,
    "`learn`": TextSource,
    "`compile`": CheckpointWeights,
    "`plan`": TextSource,
    "where the error arises": TextSource,
    "perplexity, tasks, `run`": TokenSource,
}


_TEXT = """# What works with what

Written by `make docs` from the tables that the program decides by. No engine has run on a GPU yet:
[what has run](../status/what-has-run.md) says what was tested instead.

## Models

{models}

The build of an ONNX file prunes it. Architectures with a row of their own:

{architectures}

Every other decoder is covered by its structure, with a check of it:
[models that are covered](architectures.md) names tested and refused decoders.

Quantised checkpoints: {quantised}. Published masks: {published}.

## Weight types and kinds of tiles

Bytes of a weight. Every linear may have another type, and every tile another kind.

{kinds}

Decoding is faster where a kind takes fewer bytes than dense tiles. The inputs of a linear have 16 bits, but for `w8a8`: it
rounds them to int8, and multiplies faster in prefill with every kind that it has.

## Cards and backends

{cards}

`--target` takes a card or an architecture. The last two columns say where an engine is built: TensorRT-RTX does it ahead of
time, without the card, and TensorRT only on the card that runs the engine. `--backend onnx` needs neither and works for all.
"""


def support() -> str:
    """Returns the page. It needs TensorRT-RTX, which knows the architectures that it builds for."""
    rtx = load_backend(BackendName.TENSORRT_RTX)
    return _TEXT.format(
        models=_table(("model", *_NEEDED), _models()),
        architectures="\n".join(_architectures()),
        quantised=_listed(QUANTISATIONS),
        published=_listed(IMPORTERS),
        kinds=_table(("kind", *_types(), "faster in"), _kinds()),
        cards=_table(
            ("architecture", "cards with predictions", "other cards", "kernels", "TensorRT-RTX", "TensorRT"),
            _cards(rtx.targets()),
        ),
    )


def _models() -> Iterator[tuple[str, ...]]:
    for words, source in _SOURCES.items():
        yield words, *("yes" if issubclass(source, needed) else "–" for needed in _NEEDED.values())


def _architectures() -> Iterator[str]:
    for words, encoder in (("decoders", False), ("encoders", True)):
        yield f"- {words}: {_listed(name for name, row in KNOWN.items() if row.encoder is encoder)}"


def _types() -> Iterator[str]:
    sixteen = [name for name, one in WEIGHT_TYPES.items() if not one.quantised]
    yield ", ".join(sixteen)
    yield from (name for name, one in WEIGHT_TYPES.items() if one.quantised)


def _kinds() -> Iterator[tuple[str, ...]]:
    quantised = [one for one in WEIGHT_TYPES.values() if one.quantised]
    for kind in sorted(KINDS, key=lambda kind: -kind.kept / kind.group):
        gains = "–" if kind is DENSE else "prefill and decode" if kind is TWO_FOUR else "decode"
        if not kind.goes_with(FLOAT16):
            gains = "prefill"
        sizes = (f"{kind.bytes_of(one):.4g}" if kind.goes_with(one) else "–" for one in (FLOAT16, *quantised))
        yield kind.name, *sizes, gains


def _cards(ahead: Collection[GpuArchitecture]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of cards. ahead: architectures that TensorRT-RTX builds for on any machine."""
    for one in ARCHITECTURES:
        cards = [card for card in CARDS if card.sm == one.sm]
        rated = [card.name for card in cards if isinstance(card, RatedCard)]
        others = [card.name for card in cards if card.name not in rated]
        rtx = "on any machine" if one in ahead else "–"
        yield one.name, ", ".join(rated) or "–", ", ".join(others) or "–", _kernels(one), rtx, "on the card"


def _kernels(one: GpuArchitecture) -> str:
    if one.sm in ARCHS:
        return "yes"
    return "if it is a target" if one.sm in JETSONS else f"from sm{ptx_arch(ARCHS)}, by the driver"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(support())
