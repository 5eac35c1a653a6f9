"""Runs samples/notebook.ipynb on the build of `make demo` and keeps what it shows.

python docs/notebook.py
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "samples/notebook.ipynb"


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook after a run in a folder. Warnings of libraries and paths of this machine are left out."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return nbformat.reads(nbformat.writes(notebook).replace(f"{folder}/", ""), as_version=4)


if __name__ == "__main__":
    nbformat.write(executed(ROOT), NOTEBOOK)
