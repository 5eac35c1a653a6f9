"""`patch-compile bench`. Nothing is imported here: the process of each model imports what it needs."""
