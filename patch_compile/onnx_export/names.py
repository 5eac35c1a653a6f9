"""Gives nodes, values and weights names that a reader recognises: the names of the modules and of the checkpoint."""

import re
from collections import Counter

import onnx_ir as ir

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import checkpoint_name
from patch_compile.onnx_io.tensor_names import torch_scopes

SCOPE = "patch_compile.scope"
TRACED = "traced"  # attribute of ExportDecoder and ExportEncoder that holds the model of transformers
_SLICE = re.compile(r"\.slice\([^)]*\)")  # torch's name of the list that a model makes by slicing its layers


def scope_of(node: ir.Node) -> str:
    """Returns the module that a node was traced from, e.g. "model.layers.0.mlp.gate_proj"; "" if from none."""
    if SCOPE in node.metadata_props:
        return node.metadata_props[SCOPE]
    # The last entry is the node's own name.
    modules = [
        scope for scope in torch_scopes(node)[:-1] if scope == TRACED or scope.startswith(f"{TRACED}.")
    ]
    return _SLICE.sub("", str(modules[-1])).removeprefix(TRACED).removeprefix(".") if modules else ""


def name_by_scope(model: ir.Model) -> None:
    """Name every node `<module>/<op>_<n>` and its outputs likewise. Drops torch's metadata, which contain local paths."""
    counts: Counter[str] = Counter()
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        scope = scope_of(node)
        stem = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = f"{stem}_{counts[stem]}"
        counts[stem] += 1
        node.doc_string = None
        node.metadata_props.clear()
        node.metadata_props[SCOPE] = scope
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if value.name not in kept:
                value.name = f"{node.name}:{index}"
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None


def name_as_in(checkpoint: Checkpoint, model: ir.Model, built: str, whole: str) -> None:
    """Rename every weight of the graph to its name in the checkpoint.

    built, whole: path of the base model in the traced model and in the checkpoint's. They differ if only the text part
    of a model is traced.
    """
    for value in list(model.graph.initializers.values()):
        if value.const_value is not None or value.name is None:
            continue
        name = value.name
        if built != whole and name.startswith(f"{built}."):
            name = whole + name.removeprefix(built)
        value.name = checkpoint_name(checkpoint, name)
