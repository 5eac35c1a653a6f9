"""Reads text for calibration and evaluation from files, folders and datasets, as a stream of characters."""

from masklearn.text.source import SourceKind, TextSource, open_text

__all__ = ["SourceKind", "TextSource", "open_text"]
