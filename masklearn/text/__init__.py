"""Text for calibration and evaluation: files, folders and `datasets` names, read as one stream of characters."""

from masklearn.text.source import SourceKind, TextSource, open_text, read_text

__all__ = ["SourceKind", "TextSource", "open_text", "read_text"]
