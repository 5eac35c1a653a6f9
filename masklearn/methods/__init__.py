"""One file per mask method, each yielding a `Candidate` for every covered linear."""

# Importing a method enters it in the registry.
from masklearn.methods import magnitude, wanda
from masklearn.methods.candidate import METHODS, Candidate, Learner, Progress

__all__ = ["METHODS", "Candidate", "Learner", "Progress", "magnitude", "wanda"]
