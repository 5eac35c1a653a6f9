"""Fusions of operations into a linear's node, one pass per file. `patch_compile.packing.fusion.FUSIONS` finds them by name.

A new fusion is a module of this folder with a subclass of `FusionPass` that `@FUSIONS.register` decorates. These modules
import no heavy package at the top, so that `--help` can list them fast.
"""
