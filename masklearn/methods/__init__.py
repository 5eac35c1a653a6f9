"""Mask methods. `masklearn.traits.METHODS` finds them by name.

A new method is a module of this folder with a subclass of `Method` that `@METHODS.register` decorates. These modules
do not import heavy packages at the top, so that `--help` can list them fast. Code that they share is in the subfolders.
"""

from masklearn.methods.base import Candidate, Candidates, Method, Settled, WithRounding, method_of

__all__ = ["Candidate", "Candidates", "Method", "Settled", "WithRounding", "method_of"]
