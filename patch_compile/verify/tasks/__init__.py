"""Tasks of lm-evaluation-harness, asked of the dense and the pruned model, with data of this machine alone."""

from patch_compile.verify.tasks.run import run_tasks

__all__ = ["run_tasks"]
