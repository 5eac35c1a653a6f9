"""Attacks on the program. Each module that `__main__.py` lists has a function `attack`: it tells what held and what broke.

Files, folders and words that a stranger may give a user are called `stranger`, so that a message can be checked for the name
of what is wrong.
"""
