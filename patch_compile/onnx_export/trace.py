"""Traces a model with torch.export and translates it to ONNX, under fake tensors: no weight is allocated."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from masklearn.model.architectures import Architecture
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_export.architectures import FUSED_OPSET
from patch_compile.onnx_export.attention import eager_masks
from patch_compile.onnx_export.modules import build_fake_model, tied_names
from patch_compile.onnx_export.names import TRACED
from patch_compile.onnx_export.wrappers import (
    ExportDecoder,
    ExportEncoder,
    Interface,
    decoder_interface,
    encoder_interface,
    kept_shapes,
)
from patch_compile.onnx_io.proto import silenced, without_collections


def trace_model(
    config: Any,
    architecture: Architecture,
    *,
    dtype: torch.dtype,
    opset: int = FUSED_OPSET,
    last_logits_only: bool = False,
    pooler: bool = False,
) -> ir.Model:
    """Trace every layer of `config` once and name inputs, outputs, dimensions and weights.

    Weights become initializers with their names in transformers, with type and shape, and with `const_value` None.
    pooler: trace the encoder's pooler too, if it exists.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    model: Any = build_fake_model(config, architecture, dtype, fake_mode, plain_ops=opset < FUSED_OPSET)
    wrapper: nn.Module
    with fake_mode:
        if architecture.encoder:
            pooler = pooler and getattr(model, "pooler", None) is not None
            if not pooler:
                model.pooler = None
            wrapper, interface = ExportEncoder(model), encoder_interface(config, pooler=pooler)
        else:
            own = architecture.own_masks
            wrapper = ExportDecoder(model, last_logits_only=last_logits_only, own_masks=own)
            interface = decoder_interface(config, dtype, kept_shapes(model) if own else None)
    with eager_masks(), _explained(config.model_type, known=not architecture.own_masks):
        traced = _export(wrapper, interface, opset)
    graph = traced.graph
    for value, name in zip(
        (*graph.inputs, *graph.outputs), (*interface.inputs, *interface.outputs), strict=True
    ):
        value.name = name
    _name_dimensions(traced, interface)
    _name_weights(traced, tied_names(model))
    return traced


def _export(wrapper: nn.Module, interface: Interface, opset: int) -> ir.Model:
    with torch.no_grad(), _quiet(), without_collections():
        program = torch.export.export(
            wrapper, interface.arguments, dynamic_shapes=interface.dynamic_shapes, strict=False
        )
        exported = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=opset, verbose=False
        )
    assert exported is not None
    model: ir.Model = exported.model
    return model


@contextlib.contextmanager
def _explained(model_type: str, *, known: bool) -> Iterator[None]:
    """Raise an error of torch as PatchCompileError, with its first cause, unless the type is known to be exportable."""
    try:
        yield
    except PatchCompileError:
        raise
    except Exception as error:  # of any type, as models and torch raise them
        if known:
            raise
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        line = next(filter(None, map(str.strip, str(first).splitlines())), type(first).__name__)
        raise PatchCompileError(
            f"The graph of a model of the type {model_type!r} can't be exported",
            f"torch.onnx stops with {type(first).__name__}: {line[:300].rstrip('.')}.",
            "Export it to ONNX in another way and give that file, or use a model of another type.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress log messages and warnings of torch that do not concern the user (missing torchvision, pytree)."""
    with silenced(logging.ERROR, "torch.onnx._internal.exporter"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _name_dimensions(model: ir.Model, interface: Interface) -> None:
    """Replace torch's symbols (s10, "s15 + s70") by the names of the dimensions in all shapes."""
    graph, names = model.graph, dict[str, str]()
    for place, axis, name in interface.dimensions:
        shape = graph.inputs[place].shape
        assert shape is not None
        names[str(shape[axis])] = name
    computed = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *computed):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    text = re.sub(r"\bs\d+\b", lambda match: names.get(match[0], match[0]), str(dim.value))
    return ir.SymbolicDim("total" if text in ("past + sequence", "sequence + past") else text)


def _name_weights(model: ir.Model, tied: Mapping[str, str]) -> None:
    """Name the weights and drop their fake data. Real constants keep their data."""
    from torch._subclasses.fake_tensor import FakeTensor

    for value in list(model.graph.initializers.values()):
        assert value.name is not None and value.const_value is not None
        name = value.name.removeprefix(f"{TRACED}.")
        name = tied.get(name, name)
        fake = isinstance(value.const_value.raw, FakeTensor)
        value.const_value = None if fake else ir.tensor(value.const_value.numpy(), name=name)
        value.name = name
