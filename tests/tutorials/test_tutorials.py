"""The notebooks run, on the tiny pair; what is committed of them is fit to be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tutorials.execute import NOTEBOOKS, execute

MACHINE_PATH = re.compile(r"/(?:work|tmp|home|root|Users|mnt|opt|usr|var)/|[A-Z]:\\\\")
NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def path(request: Any) -> Path:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all notebooks run, in their order: the later ones use what the first trained."""
    return tmp_path_factory.mktemp("tutorials")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def needs_gpu(cell: Any) -> bool:
    return "gpu" in cell.metadata.get("tags", [])


def test_there_are_five() -> None:
    assert [name[0] for name in NAMES] == list("12345")


def test_runs_on_the_tiny_pair(path: Path, folder: Path) -> None:
    notebook = execute(path, "tiny", folder)
    for cell in code_cells(notebook):
        assert (cell.execution_count is None) == needs_gpu(cell)
        streams = [out for out in cell.outputs if out.output_type == "stream"]
        assert not [out.text for out in streams if out.name == "stderr"]


def test_committed_notebook_is_fit_to_be_read(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    outputs = [out for cell in cells for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error"]
    assert not MACHINE_PATH.search(json.dumps(outputs))
    assert path.stat().st_size < 1_000_000
    executed = [cell for cell in cells if not needs_gpu(cell)]
    counts = [cell.execution_count for cell in executed]
    assert counts == list(range(1, len(executed) + 1))  # run as a whole, from top to bottom
    assert not [cell for cell in cells if needs_gpu(cell) and cell.outputs]
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    assert "## Exercise" in last.source
