"""Mask methods, one class a file; `masklearn.traits.METHODS` finds them by name.

A new method is a module here: a subclass of `Method` that `@METHODS.register` enters. The modules of this folder import
nothing heavy at the top, so that `--help` can list them; what they share lies in the subfolders.
"""

from masklearn.methods.base import Candidate, Method, Settled, method_of

__all__ = ["Candidate", "Method", "Settled", "method_of"]
