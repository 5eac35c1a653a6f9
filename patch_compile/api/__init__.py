"""The library: one function for each command of `patch-compile`, with the command's options as typed arguments.

`import patch_compile` gives access to all of them. Importing them is fast: the packages that do the work are imported
when a function is first called.
"""
