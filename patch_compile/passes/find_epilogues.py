"""Find what follows each linear, as far as one PatchLinear can compute it in the linear's place."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from patch_compile.ops.patch_linear import Epilogue
from patch_compile.passes.constants import constant_of
from patch_compile.passes.find_linears import LinearSite
from patch_compile.passes.shapes import same_known_shape

__all__ = ["FusedSite", "find_epilogues", "site_of"]

_LOGGER = logging.getLogger(__name__)
_GELU = {"none": "gelu", "tanh": "gelu_tanh"}  # by the attribute `approximate`
_WORDS = {"gelu": "GELU", "gelu_tanh": "GELU (tanh)", "silu": "SiLU"}


@dataclass(frozen=True)
class FusedSite:
    """What one PatchLinear takes the place of: a linear, or gate and up, and what follows.

    `nodes` compute `output` [..., N], and nothing else reads what is between them; `addition` is the Add of a residual
    and the place of the residual among its inputs.
    """

    linears: tuple[LinearSite, ...]
    epilogue: Epilogue
    nodes: tuple[ir.Node, ...]
    output: ir.Value
    addition: tuple[ir.Node, int] | None = None

    @property
    def name(self) -> str:
        """The linear's; of gate and up what they share, then both: `model.layers.0.mlp.gate_proj+up_proj`."""
        first, *others = (site.name for site in self.linears)
        return "+".join((first, *(name.removeprefix(_shared(first, name)) for name in others)))

    @property
    def residual(self) -> ir.Value | None:
        """[..., N]; read from the graph, where a pass may have replaced the node that makes it."""
        return self.addition[0].inputs[self.addition[1]] if self.addition else None

    def described(self, linear: str) -> str:
        """The epilogue in words, for one of its linears: `SiLU·mul with up_proj`, `GELU + residual`."""
        activation = _WORDS.get(self.epilogue.activation, "")
        others = [site.name for site in self.linears if site.name != linear]
        if others:
            activation += f"·mul with {others[0].removeprefix(_shared(linear, others[0]))}"
        return " + ".join(filter(None, (activation, "residual" * self.epilogue.residual)))


@dataclass(frozen=True)
class _Activation:
    kind: str
    nodes: tuple[ir.Node, ...]

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


def find_epilogues(sites: Mapping[str, LinearSite], planned: Collection[str]) -> list[FusedSite]:
    """Return a site for each linear of `planned`, gate and up together, in graph order.

    1. Mul(activation(gate), up): both planned, of the same X and shape, both with a bias or both without.
    2. Gelu(linear), exact or by tanh, and SiLU as Mul(linear, Sigmoid(linear)).
    3. Add(what 2 leaves, residual): a residual of the same type and shape that is no constant.
    What is between has no other reader and is no output of the graph. A Cast in between rounds, and PatchLinear rounds
    once, so it ends the epilogue. Why a linear is not fused with what follows is logged for debugging.
    """
    chosen = {name: site for name, site in sites.items() if name in planned}
    activations = {name: _activation(site) for name, site in chosen.items()}
    pairs = _gates_and_ups(chosen, sites.values(), activations)
    paired = {name for gate, up in pairs.items() for name in (gate, up)}
    added: set[ir.Node] = set()
    fused = []
    for name, site in chosen.items():
        activation = activations[name]
        if name in pairs and activation is not None:
            fused.append(_gated(site, chosen[pairs[name]], activation))
        elif name not in paired:
            fused.append(_with_residual(_activated(site_of(site), activation), added))
    return fused


def site_of(site: LinearSite) -> FusedSite:
    """A linear with its bias and nothing else."""
    return FusedSite((site,), Epilogue(bias=site.bias is not None), site.nodes, site.output)


def _shared(a: str, b: str) -> str:
    """The dotted prefix of two names: "model.layers.0.mlp." of gate_proj and up_proj there."""
    shared = []
    for x, y in zip(a.split(".")[:-1], b.split(".")[:-1], strict=False):
        if x != y:
            break
        shared.append(f"{x}.")
    return "".join(shared)


def _refuse(linear: str, what: str, why: str) -> None:
    _LOGGER.debug("%s is not fused with %s: %s", linear, what, why)


def _readers(value: ir.Value) -> list[ir.Node]:
    return [use.node for use in value.uses()]


def _reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The standard operation of this kind that reads a value, in the value's own graph."""
    standard = (n for n in _readers(value) if n.domain in ("", "ai.onnx") and n.graph is value.graph)
    return next((n for n in standard if n.op_type == op_type), None)


def _why_open(value: ir.Value, readers: Collection[ir.Node]) -> str:
    """Why a value is needed beside `readers`, empty when it is not."""
    if value.is_graph_output():
        return "what is between is an output of the graph"
    others = [node for node in _readers(value) if node not in readers]
    return f"{others[0].op_type} {others[0].name!r} reads what is between too" if others else ""


def _activation(site: LinearSite) -> _Activation | None:
    found = _silu(site.output) or _gelu(site.output)
    if found is None:
        return None
    between = [site.output, *(node.outputs[0] for node in found.nodes[:-1])]
    why = "".join(_why_open(value, found.nodes) for value in between)
    if why:
        _refuse(site.name, _WORDS[found.kind], why)
        return None
    return found


def _gelu(x: ir.Value) -> _Activation | None:
    gelu = _reader(x, "Gelu")
    if gelu is None:
        return None
    approximate = gelu.attributes.get("approximate")
    return _Activation(_GELU[approximate.as_string() if approximate else "none"], (gelu,))


def _silu(x: ir.Value) -> _Activation | None:
    sigmoid = _reader(x, "Sigmoid")
    product = _reader(sigmoid.outputs[0], "Mul") if sigmoid else None
    if sigmoid is None or product is None or {*product.inputs} != {x, sigmoid.outputs[0]}:
        return None
    return _Activation("silu", (sigmoid, product))


def _gates_and_ups(
    chosen: Mapping[str, LinearSite],
    sites: Iterable[LinearSite],
    activations: Mapping[str, _Activation | None],
) -> dict[str, str]:
    """Name of each gate → name of its up."""
    by_output = {site.output: site for site in sites}
    pairs = {}
    for name, gate in chosen.items():
        activation = activations[name]
        product = _reader(activation.output, "Mul") if activation else None
        if activation is None or product is None:
            continue
        factors = [by_output.get(value) for value in product.inputs if value is not None]
        up = next(filter(None, factors), None)
        if up is None:
            _refuse(name, "an up", "the other factor is no linear")
            continue
        why = _why_no_pair(gate, up, chosen)
        why = why or _why_open(activation.output, [product]) or _why_open(up.output, [product])
        if why:
            _refuse(name, "an up", why)
            continue
        pairs[name] = up.name
    return pairs


def _why_no_pair(gate: LinearSite, up: LinearSite, chosen: Collection[str]) -> str:
    if up.name not in chosen:
        return f"{up.name} is not packed"
    if gate.x is not up.x:
        return f"{up.name} reads another X"
    if gate.shape != up.shape:
        return f"it is {gate.shape}, {up.name} {up.shape}"
    if (gate.bias is None) != (up.bias is None):
        return f"only one of it and {up.name} has a bias"
    return ""


def _gated(gate: LinearSite, up: LinearSite, activation: _Activation) -> FusedSite:
    product = _reader(activation.output, "Mul")
    assert product is not None
    return FusedSite(
        (gate, up),
        Epilogue(bias=gate.bias is not None, activation=activation.kind, gated=True),
        (*gate.nodes, *up.nodes, *activation.nodes, product),
        product.outputs[0],
    )


def _activated(site: FusedSite, activation: _Activation | None) -> FusedSite:
    if activation is None:
        return site
    return replace(
        site,
        epilogue=replace(site.epilogue, activation=activation.kind),
        nodes=(*site.nodes, *activation.nodes),
        output=activation.output,
    )


def _with_residual(site: FusedSite, added: set[ir.Node]) -> FusedSite:
    """With the Add that follows, unless it is among `added`, which another linear has taken."""
    add = _reader(site.output, "Add")
    if add is None:
        if not site.epilogue.activation:
            followers = ", ".join(node.op_type for node in _readers(site.output)) or "nothing"
            _refuse(site.name, "what follows", f"{followers} is no epilogue")
        return site
    place = 1 if add.inputs[0] is site.output else 0
    why = "another linear has taken it" if add in added else _why_no_residual(site, add, add.inputs[place])
    if why:
        _refuse(site.name, f"the residual of {add.name!r}", why)
        return site
    added.add(add)
    return replace(
        site,
        epilogue=replace(site.epilogue, residual=True),
        nodes=(*site.nodes, add),
        output=add.outputs[0],
        addition=(add, place),
    )


def _why_no_residual(site: FusedSite, add: ir.Node, residual: ir.Value | None) -> str:
    if residual is None or residual is site.output:
        return "it adds the linear to itself"
    if residual.is_initializer() or constant_of(residual) is not None:
        return "what is added is a constant"
    if residual.dtype != site.linears[0].weight.dtype:
        return f"what is added is {residual.dtype}"
    if not same_known_shape(residual.shape, site.output.shape):
        return f"what is added is {residual.shape}, not known to be {site.output.shape}"
    return _why_open(site.output, [add])
