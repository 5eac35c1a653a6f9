"""Runs tasks of lm-evaluation-harness on the dense and the pruned model, only with data on this machine."""

from patch_compile.verification.tasks.run import run_tasks

__all__ = ["run_tasks"]
