"""Graphs of one linear, in every form that lowerings take."""

from tests.graphs import graph_of

__all__ = ["FORMS", "linear"]

FORMS = {
    "matmul": "w = Transpose <perm = [1, 0]> (a) y = MatMul (x, w)",
    "matmul+bias": "w = Transpose <perm = [1, 0]> (a) p = MatMul (x, w) y = Add (p, bias)",
    "gemm+bias": "y = Gemm <transB = 1> (x, a, bias)",
}


def linear(form, shape, dtype, opset=23):
    """A graph of one linear `a`, X [batch, sequence, K], or [rows, K] for Gemm; its weights have no data."""
    n, k = shape
    leading = "batch" if form.startswith("gemm") else "batch, sequence"
    model = graph_of(
        f"agraph ({dtype}[{leading}, {k}] x, {dtype}[{n}, {k}] a, {dtype}[{n}] bias) => ({dtype}[{leading}, {n}] y)"
        f" {{ {FORMS[form]} }}",
        opset,
    )
    for name, stored in (("a", "a.weight"), ("bias", "a.bias")):
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.name = stored
        if value.uses():
            model.graph.initializers[stored] = value
    return model
