"""Runs tasks of lm-evaluation-harness on the dense and the pruned model, only with data on this machine."""
