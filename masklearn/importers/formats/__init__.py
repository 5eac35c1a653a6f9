"""Formats of published masks, with one class per file. `masklearn.importers.base.IMPORTERS` finds them by name.

A new format is a module of this folder with a subclass of `Importer` that `@IMPORTERS.register` decorates. These modules
do not import heavy packages at the top, so that `--help` can list them fast.
"""
