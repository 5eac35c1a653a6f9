"""Published masks to MaskSets: one file per format."""

# Importing a format enters it in the registry.
from masklearn.importers import compressed_tensors, maskllm, patch, pruned
from masklearn.importers.detect import detect_format
from masklearn.importers.importing import import_masks
from masklearn.importers.published import IMPORTERS, Format, Importer, Published

__all__ = [
    "IMPORTERS",
    "Format",
    "Importer",
    "Published",
    "compressed_tensors",
    "detect_format",
    "import_masks",
    "maskllm",
    "patch",
    "pruned",
]
