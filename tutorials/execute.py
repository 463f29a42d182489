"""Run the notebooks and keep their outputs: `python tutorials/execute.py gemma3 [NOTEBOOK ...]`.

Cells tagged `gpu` are left out. Results go to `tutorials/runs/<pair>`; a notebook uses what the
ones before it left there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import perf_counter

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("[0-9]_*.ipynb"))
LONGEST_CELL = 1800  # seconds; training on the Gemma pair takes minutes


def execute(path: Path, pair: str, folder: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run on a pair ("tiny", "gemma3") in `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # `gpu` cells keep no outputs of another machine
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=LONGEST_CELL,
        record_timing=False,
        skip_cells_with_tag="gpu",
        resources={"metadata": {"path": str(folder)}},
    )
    os.environ["CROSSDIFF_TUTORIAL_PAIR"] = pair
    return client.execute()


def main(pair: str, *names: str) -> None:
    chosen = [FOLDER / Path(name).name for name in names] or NOTEBOOKS
    for path in chosen:
        started = perf_counter()
        notebook = execute(path, pair, FOLDER)
        notebook.metadata.language_info = {"name": "python"}  # versions would change every time
        nbformat.write(notebook, path)
        print(f"{path.name}: {perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
