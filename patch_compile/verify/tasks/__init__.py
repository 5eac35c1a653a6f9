"""Runs tasks of lm-evaluation-harness on the dense and the pruned model, only with data on this machine."""

from patch_compile.verify.tasks.run import run_tasks

__all__ = ["run_tasks"]
