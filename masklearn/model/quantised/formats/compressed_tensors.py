"""Reads weights that compressed-tensors quantised: its formats pack-quantized, int-quantized, naive-quantized,
float-quantized and marlin-24.

A weight [N, K] of a module `X` is stored as `X.weight_packed` int32 [N, ceil(K·bits/32)] (the lowest bits first, each value
plus 2^(bits-1)) with `X.weight_shape`, or as `X.weight` int8 or fp8 (e4m3) [N, K]. With it come `X.weight_scale` [N, 1] or
[N, K/group], and in files of early versions `X.weight_zero_point`, which is 0. marlin-24 stores `X.weight_packed`, `X.meta`
and `X.scale_packed` in the order of its kernel. Sparse formats (sparse-24-bitmask, sparse-bitmask) store
`X.compressed`, the kept values of `X.weight` row by row, with `X.bitmask` and `X.shape`. See compressed_tensors/compressors
in https://github.com/vllm-project/compressed-tensors.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from masklearn.masks.tiles import GROUP
from masklearn.model.quantised.base import (
    QUANTISATIONS,
    SCALES,
    FormatSettings,
    PackedWeight,
    Quantisation,
    StoredTensors,
    check_groups,
    check_in_order,
    damaged,
    dense_dtype,
    nibbles,
    refused,
    signed,
)
from masklearn.quant.table import W8A8

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "marlin-24")
_PLAIN = {"I8": "int", "F8_E4M3": "float"}  # types of weights that are stored as they are
_Empty = Annotated[dict[str, Any], Field(max_length=0)]


class _Weights(FormatSettings):
    num_bits: Literal[4, 8] = 8
    type: Literal["int", "float"] = "int"
    symmetric: Literal[True] = True
    strategy: Literal["channel", "group", "tensor"]
    group_size: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type == "float" and (self.num_bits != W8A8.bits or self.strategy == "group"):
            raise ValueError("floats are read in 8 bits, with a scale for each row or for all")
        return self


class _Inputs(FormatSettings):
    """Inputs that are rounded to int8 with a scale that is found for each token, as w8a8 does, or to fp8, which is given
    up."""

    num_bits: Literal[8] = 8
    type: Literal["int", "float"] = "int"
    symmetric: Literal[True] = True
    strategy: Literal["token", "tensor"]
    dynamic: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type == "int" and not (self.dynamic and self.strategy == "token"):
            raise ValueError("inputs are rounded to int8 with a dynamic scale for each token, or not at all")
        return self


class _Sparsity(FormatSettings):
    format: Literal["dense", "sparse-24-bitmask", "sparse-bitmask"] = "dense"


class _Group(FormatSettings):
    targets: list[str] = Field(default_factory=list)
    weights: _Weights | None = None
    input_activations: _Inputs | None = None
    output_activations: _Empty | None = None
    format: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.input_activations and (self.weights is None or self.weights.num_bits != W8A8.bits):
            raise ValueError("its inputs are quantised, and not its weights to 8 bits")
        if self.input_activations and self.weights and self.input_activations.type != self.weights.type:
            raise ValueError("its inputs and its weights have other types of 8 bits")
        return self

    @property
    def input_bits(self) -> int:
        inputs = self.input_activations
        return inputs.num_bits if inputs and inputs.type == "int" else 16


class _Settings(FormatSettings):
    config_groups: dict[str, _Group]
    format: str = ""
    kv_cache_scheme: _Empty | None = None
    sparsity_config: _Sparsity | None = None
    transform_config: _Empty | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        formats = [group.format or self.format for group in self.config_groups.values() if group.weights]
        if others := {*formats} - {*_FORMATS}:
            raise ValueError(f"the formats {', '.join(_FORMATS)} are read, not {', '.join(others)}")
        return self


@QUANTISATIONS.register
class CompressedIntegers(Quantisation):
    """compressed-tensors, as llm-compressor writes it. The tensors tell which weights are quantised, whatever `ignore` and
    `targets` say."""

    name = "compressed-tensors"
    summary = (
        "pack-quantized, int-quantized or naive-quantized, symmetric; only weights, or int8 weights with int8 inputs, "
        "which have a dynamic scale for each token; float-quantized, read in 16 bits; marlin-24; int8 and fp8 in "
        "sparse formats"
    )

    parsed_as = _Settings

    def settings(self, folder: Path, config: Mapping[str, Any]) -> FormatSettings:
        """Check formats, groups and everything else that changes the model's results."""
        if not config.get("config_groups"):  # only a sparse format, or a scheme of the KV cache
            raise refused(
                folder,
                "quantization_config.config_groups",
                "It quantises no weights. Of sparse formats `patch-compile import-mask` takes the masks.",
            )
        return super().settings(folder, config)

    def weights(self, stored: StoredTensors, settings: Any, dtype: str) -> Sequence[PackedWeight]:
        """Find the weights with integers, by their tensors."""
        groups = [group for group in settings.config_groups.values() if group.weights]
        schemes = [group.weights for group in groups]
        packed = [
            (_marlin if f"{module}.scale_packed" in stored else _packed)(stored, module, schemes, dtype)
            for module in stored.modules("weight_packed")
        ]
        plain = [
            _plain(stored, module, schemes, dtype)
            for module in stored.modules("weight")
            if stored.entry(f"{module}.weight").dtype in _PLAIN
        ]
        sparse = [_sparse(stored, module, schemes, dtype) for module in stored.modules("compressed")]
        weights = [*packed, *plain, *sparse]
        known = {part for weight in weights for part in weight.parts}
        for module in stored.modules("weight_scale"):
            if f"{module}.weight_scale" not in known:
                raise damaged(stored.folder, f"{module}.weight_scale", "No integers belong to these scales.")
        return [replace(weight, input_bits=_input_bits(stored, weight, groups)) for weight in weights]


def _input_bits(stored: StoredTensors, weight: PackedWeight, groups: Sequence[_Group]) -> int:
    """Returns the bits of a linear's inputs. Where groups differ in them, targets tell the linear's group, in the order of
    the library: its name, an expression that fits its name, its class."""
    if len(bits := {group.input_bits for group in groups}) == 1:
        return bits.pop()
    module = weight.name.removesuffix(".weight")
    ways: tuple[Callable[[str], object], ...] = (
        lambda target: target == module,
        lambda target: target.startswith("re:") and re.match(target.removeprefix("re:"), module),
        lambda target: target == "Linear",
    )
    for fits in ways:
        for group in groups:
            if any(fits(target) for target in group.targets):
                return group.input_bits
    raise damaged(stored.folder, "quantization_config.config_groups", f"No group targets {module}.")


def pack_integers(integers: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """Pack integers [N, K] of 4 or 8 bits as pack-quantized has them: int32 [N, ceil(K·bits/32)]."""
    fields = integers.view(np.uint8) + np.uint8(1 << (bits - 1))
    padded: NDArray[np.uint8] = np.pad(fields, ((0, 0), (0, -fields.shape[1] % (32 // bits))))
    if bits == 4:
        padded = padded[:, 0::2] | padded[:, 1::2] << np.uint8(4)
    return np.ascontiguousarray(padded).view(np.int32)


def _packed(stored: StoredTensors, module: str, schemes: Sequence[_Weights], dtype: str) -> PackedWeight:
    words = f"{module}.weight_packed"
    n, columns = stored.need(words, ("I32",), (None, None)).shape
    stored.need(f"{module}.weight_shape", ("I64", "I32"), (2,))
    shape = stored.read(f"{module}.weight_shape").tolist()
    fitting = [
        scheme
        for scheme in schemes
        if scheme.type == "int"
        and shape[0] == n
        and shape[1] > 0
        and -(-shape[1] * scheme.num_bits // 32) == columns
    ]
    if not fitting:
        raise damaged(stored.folder, f"{module}.weight_shape", f"It is {shape}, of [{n}, {columns}] words.")
    alike = [scheme for scheme in fitting if scheme.num_bits == fitting[0].num_bits]
    return _weight(stored, module, (n, shape[1]), alike, dtype, (words, f"{module}.weight_shape"))


def _marlin(stored: StoredTensors, module: str, schemes: Sequence[_Weights], dtype: str) -> PackedWeight:
    words, meta, scales = (f"{module}.{part}" for part in ("weight_packed", "meta", "scale_packed"))
    steps, halves = stored.need(meta, ("I16",), (None, None)).shape
    n, k = halves // 2, _COLUMNS * steps
    width = stored.need(words, ("I32",), (steps, None)).shape[1]
    entry = stored.need(scales, SCALES, (None, n))
    groups = entry.shape[0]
    scheme = next(
        (s for s in schemes if 2 * width == n * s.num_bits and _layout(s, (n, k))[1] == groups), None
    )
    if scheme is None or scheme.type != "int" or not n or n % _ROWS:
        raise damaged(stored.folder, words, f"No scheme gives its shape for [{n}, {k}] and {groups} groups.")
    check_groups(stored.folder, scales, (n, k), scheme.num_bits, groups)

    def integers() -> NDArray[np.int8]:
        raw = stored.read(words)
        fields = nibbles(raw).reshape(steps, -1) if scheme.num_bits == 4 else raw.view(np.uint8)
        try:
            return _marlin_integers(signed(fields, scheme.num_bits), stored.read(meta), scheme.num_bits)
        except ValueError as error:
            raise damaged(stored.folder, meta, str(error)) from error

    return PackedWeight(
        folder=stored.folder,
        name=f"{module}.weight",
        shape=(n, k),
        dtype=dense_dtype(entry.dtype, dtype),
        bits=scheme.num_bits,
        parts=(words, scales, meta),
        file=stored.file_of(words),
        integers=integers,
        scales=lambda: _marlin_scales(stored.scales(scales), k, k // groups),
    )


def _plain(stored: StoredTensors, module: str, schemes: Sequence[_Weights], dtype: str) -> PackedWeight:
    entry = stored.need(f"{module}.weight", tuple(_PLAIN), (None, None))
    n, k = entry.shape
    fitting = [scheme for scheme in schemes if scheme.type == _PLAIN[entry.dtype]]
    return _weight(stored, module, (n, k), fitting, dtype, (f"{module}.weight",))


def _sparse(stored: StoredTensors, prefix: str, schemes: Sequence[_Weights], dtype: str) -> PackedWeight:
    """Returns a weight of which only kept values are stored. prefix: of a module, or in early files of its weight."""
    values, bits, sizes = (f"{prefix}.{part}" for part in ("compressed", "bitmask", "shape"))
    module, kind = prefix.removesuffix(".weight"), stored.entry(values).dtype
    if kind not in _PLAIN:
        raise refused(stored.folder, values, f"It holds {kind}, and int8 and fp8 are read in sparse formats.")
    n, bytes_of_row = stored.need(bits, ("U8",), (None, None)).shape
    stored.need(sizes, ("I64", "I32"), (2, 1)[: len(stored.entry(sizes).shape)] if sizes in stored else ())
    shape = stored.read(sizes).ravel().tolist()
    if len(shape) != 2 or shape[0] != n or -(-shape[1] // 8) != bytes_of_row:
        raise damaged(stored.folder, sizes, f"It is {shape}, of a bitmask [{n}, {bytes_of_row}].")
    fitting = [scheme for scheme in schemes if scheme.type == _PLAIN[kind]]
    offsets = f"{prefix}.row_offsets"  # the bitmask says the same
    parts = (values, bits, sizes, *((offsets,) if offsets in stored else ()))
    weight = _weight(stored, module, (n, shape[1]), fitting, dtype, parts)

    def integers() -> NDArray[Any]:
        kept = np.unpackbits(stored.read(bits), axis=1, bitorder="little").view(np.bool_)
        compressed = stored.read(values).ravel()
        if kept[:, shape[1] :].any() or int(np.count_nonzero(kept)) != compressed.size:
            raise damaged(
                stored.folder, bits, f"It does not keep the {compressed.size} values that are stored."
            )
        whole = np.zeros((n, shape[1]), compressed.dtype)
        whole[kept[:, : shape[1]]] = compressed
        return whole

    return replace(weight, integers=integers)


def _weight(
    stored: StoredTensors,
    module: str,
    shape: tuple[int, int],
    schemes: Sequence[_Weights],
    dtype: str,
    parts: tuple[str, ...],
) -> PackedWeight:
    """Returns a weight whose integers are in `parts`. schemes: possible schemes of the integers."""
    name = f"{module}.weight_scale"
    entry = stored.need(name, SCALES, (None,) * len(stored.entry(name).shape) if name in stored else ())
    n, k = shape
    rows, groups = (*entry.shape, 1, 1)[:2]  # the scale of a whole tensor may be a scalar
    scheme = next((scheme for scheme in schemes if _layout(scheme, shape) == (rows, groups)), None)
    if scheme is None or len(entry.shape) > 2:
        raise damaged(
            stored.folder, name, f"It is {list(entry.shape)}, which no scheme gives for [{n}, {k}]."
        )
    check_groups(stored.folder, name, shape, scheme.num_bits, groups)
    zero, index = f"{module}.weight_zero_point", f"{module}.weight_g_idx"
    floats = scheme.type == "float"
    unused = (f"{module}.input_scale",) if floats else ()  # fp8 inputs are given up
    extra = tuple(part for part in (zero, index, *unused) if part in stored)
    if index in stored:
        check_in_order(stored, index, k, groups)
    return PackedWeight(
        folder=stored.folder,
        name=f"{module}.weight",
        shape=shape,
        dtype=dense_dtype(entry.dtype, dtype),
        bits=scheme.num_bits,
        parts=(parts[0], name, *parts[1:], *extra),
        file=stored.file_of(parts[0]),
        integers=partial(_integers, stored, parts[0], shape, scheme.num_bits),
        scales=partial(_scales, stored, name, zero, n),
        floats=floats,
    )


def _layout(scheme: _Weights, shape: tuple[int, int]) -> tuple[int, int]:
    n, k = shape
    if scheme.strategy == "tensor":
        return 1, 1
    size = scheme.group_size or 0
    return n, -(-k // size) if scheme.strategy == "group" and size > 0 else 1


def _integers(stored: StoredTensors, name: str, shape: tuple[int, int], bits: int) -> NDArray[Any]:
    raw, k = stored.read(name), shape[1]
    if raw.dtype != np.int32 and raw.dtype != np.int8:
        return raw
    if raw.dtype == np.int8:
        integers: NDArray[np.int8] = raw
    elif bits == 8:
        integers = signed(np.ascontiguousarray(raw).view(np.uint8)[:, :k], bits)
    else:
        integers = signed(nibbles(raw).reshape(shape[0], -1)[:, :k], bits)
    half = 1 << (bits - 1)
    if bits < 8 and not (-half <= int(integers.min()) and int(integers.max()) < half):
        raise damaged(stored.folder, name, f"It holds integers that {bits} bits do not.")
    return integers


def _scales(stored: StoredTensors, name: str, zero: str, n: int) -> NDArray[np.float32]:
    if zero in stored and stored.read(zero).astype(np.float32).any():
        raise refused(stored.folder, zero, "The weights have zero points; only symmetric weights are read.")
    scales = np.atleast_1d(stored.scales(name))
    scales = scales.reshape(scales.shape[0], -1)
    return np.repeat(scales, n, axis=0) if scales.shape[0] < n else scales


# marlin-24: 2:4 integers of 4 or 8 bits, in the order in which the kernel loads them. A weight [N, K] is two tensors. The
# words int32 [K/32, N·bits/2] hold the K/2 kept integers of each row, plus 2^(bits-1), the lowest bits first: tiles of 16
# kept integers and 16 rows, and in each 4 tiles the 1024 integers in the order of `_order`. The metadata int16 [K/32, 2N]
# hold the 2-bit places of the two kept integers of each 4, in the order of CUTLASS's metadata. See marlin_24 in
# compressed_tensors/compressors of release 0.14, and tools/util/include/cutlass/util/host_reorder.h of CUTLASS.
_ROWS, _COLUMNS = 64, 32  # N and K are multiples of these
_TILE = 16
_INTERLEAVED = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: (0, 2, 1, 3)}
_SCALE_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # order of 8 neighbours


def _marlin_integers(fields: NDArray[np.int8], meta: NDArray[np.int16], bits: int) -> NDArray[np.int8]:
    """Returns integers [N, K]. fields: the integers of the words, without their offset, int8 [K/32, 16·N].

    Raises ValueError if the places of two integers are out of order.
    """
    steps, n = fields.shape[0], fields.shape[1] // _TILE
    tiles = np.empty((fields.size // 1024, 1024), np.int8)
    tiles[:, _order(bits)] = fields.reshape(tiles.shape)
    rows = tiles.reshape(steps, n // _TILE, _TILE, _TILE).transpose(1, 3, 0, 2)
    pairs = rows.reshape(n, -1, 2)
    packed = meta.ravel().view(np.uint16)[_metadata_places(n, 2 * steps)]
    codes = (packed[..., None] >> np.array([0, 4, 8, 12], np.uint16)).astype(np.uint8).reshape(n, -1)
    places = np.stack((codes & 3, codes >> 2 & 3), axis=-1)
    if (places[..., 0] >= places[..., 1]).any():
        raise ValueError("Two integers of a group have the same place, or are out of order.")
    dense = np.zeros((n, pairs.shape[1], GROUP), np.int8)
    np.put_along_axis(dense, places.astype(np.intp), pairs, axis=-1)
    return dense.reshape(n, -1)


def _marlin_scales(scales: NDArray[np.float32], k: int, size: int) -> NDArray[np.float32]:
    """Returns scales [N, groups] of the stored [groups, N]. size: columns of a group; the library counts kept columns, so
    groups of half of K or more have the order of the rows."""
    if size >= k // 2:
        return np.ascontiguousarray(scales.T)
    ordered = np.empty_like(scales).reshape(-1, len(_SCALE_ORDER))
    ordered[:, _SCALE_ORDER] = scales.reshape(ordered.shape)
    return np.ascontiguousarray(ordered.reshape(scales.shape).T)


def _order(bits: int) -> NDArray[np.intp]:
    """Returns the places in 4 tiles [4 tiles, 16 kept, 16 rows] of the integers in the order in which a warp loads them."""
    lane, j, block, pair, odd = np.ogrid[:32, :4, :2, :2, :2]
    kept = 2 * (lane % 4 + 4 * pair) + odd
    order = _TILE * kept + 256 * (lane // 8) + 8 * (lane // 4 % 2) + 4 * block + j
    interleaved = order.reshape(-1, len(_INTERLEAVED[bits]))[:, _INTERLEAVED[bits]]
    return np.asarray(interleaved.ravel(), np.intp)


def _metadata_places(n: int, words: int) -> NDArray[np.intp]:
    """Returns where the metadata word of a row and 16 columns is stored, [N, words]."""
    row, word = np.ogrid[:n, :words]
    row = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
    # The two words off the diagonal of each 2x2 block are swapped.
    swap = ((row % 2 == 0) & (word % 2 == 1)).astype(np.intp) - ((row % 2 == 1) & (word % 2 == 0))
    row, word = row + swap, word - swap
    return np.asarray(word // 2 * n * 2 + row * 2 + word % 2, np.intp)
