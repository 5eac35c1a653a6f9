"""The library: one function for each command of `patch-compile`, with the command's options as typed arguments.

`import patch_compile` gives them all. Importing them is light; the packages that do the work are imported by the first call.
"""
