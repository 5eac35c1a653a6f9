"""Replaces CastLike by Cast."""

import onnx_ir as ir

from patch_compile.onnx_io.proto import STANDARD_DOMAINS


class ResolveCastLikePass(ir.passes.InPlacePass):
    """`CastLike(x, y)` -> `Cast(x, to=type of y)`, the only form of a cast that other passes look for.

    1. The type of y must be known.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every CastLike that follows the rule."""
        modified = False
        for node in list(model.graph):
            like = node.inputs[1] if node.op_type == "CastLike" and node.domain in STANDARD_DOMAINS else None
            if like is None or like.dtype is None:
                continue
            cast = ir.node(
                "Cast",
                [node.inputs[0]],
                attributes={"to": int(like.dtype)},
                name=(node.name or "").replace("CastLike", "Cast"),
                metadata_props=dict(node.metadata_props),
            )
            cast.outputs[0].type = ir.TensorType(like.dtype)
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], [cast], node.outputs, cast.outputs
            )
            modified = True
        return ir.passes.PassResult(model, modified=modified)
