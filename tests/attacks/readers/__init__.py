"""All readers of bytes that others may have written. A reader is a function with the mark `@reader`, and gets a corpus."""

from tests.attacks.reader import READERS
from tests.attacks.readers import builds, inputs

__all__ = ["READERS", "builds", "inputs"]
