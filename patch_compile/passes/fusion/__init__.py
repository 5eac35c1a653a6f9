"""What goes into the node of a linear, one pass a file; `patch_compile.packing.fusion.FUSIONS` finds them by name.

A new fusion is a module here: a subclass of `FusionPass` that `@FUSIONS.register` enters. The modules of this folder
import nothing heavy at the top, so that `--help` can list them.
"""
