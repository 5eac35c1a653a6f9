"""Formats of published masks, one class a file; `masklearn.importers.base.IMPORTERS` finds them by name.

A new format is a module here: a subclass of `Importer` that `@IMPORTERS.register` enters. The modules of this folder
import nothing heavy at the top, so that `--help` can list them.
"""
