"""Makes the page of all graph passes from their classes: `reference/passes.md` on the site."""

from patch_compile.passes import pass_classes, rule_of

_HEAD = """# Graph passes

`compile --dump-passes DIR` and PATCH_COMPILE_DEBUG=3 write the graph after each pass, into a file with the name of the pass.
The passes of a folder are in the order of their runs; fusions run after GatherLinearsPass. A graph gets only the passes that
its source needs, and `compile --list-passes` prints the passes of a checkpoint. Passes without an arrow are from onnx_ir.
[How to extend it](../howto/extending.md#a-pass) says how to write a pass."""


def passes() -> str:
    """The page."""
    parts = [_HEAD]
    for folder, kinds in pass_classes().items():
        parts.append(f"\n## {folder}\n\n| pass | before -> after |\n| --- | --- |")
        parts += [f"| {kind.__name__} | {rule_of(kind)} |" for kind in kinds]
    return "\n".join(parts) + "\n"
