"""One file per mask method, each yielding a `Candidate` for every covered linear."""

# Importing a method enters it in the registry.
from masklearn.methods import magnitude, maskllm, oneshot, patch, wanda
from masklearn.methods.candidate import METHODS, Candidate, Learner

__all__ = ["METHODS", "Candidate", "Learner", "magnitude", "maskllm", "oneshot", "patch", "wanda"]
