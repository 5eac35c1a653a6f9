"""`patch-compile bench`. This package imports nothing: the process of each model imports what it needs."""
