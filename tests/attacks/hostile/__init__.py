"""Hostile inputs: files, folders and words that a stranger may give a user, fed to the commands that take them.

Everything a stranger controls is called `stranger`, so that a message can be checked for the name of what is wrong.
`cases.py` lists all inputs, `sandbox.py` runs one, and `python -m tests.attacks.hostile` runs any number of them.
"""
