"""The notebook runs from top to bottom, as a reader would run it."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "quick_start.ipynb"


def test_it_is_kept_without_results_and_opens_where_notebooks_do():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and "colab" in notebook.metadata
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.proof
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # else its paths come with a warning
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = ["".join(each.get("text", "") for each in cell.get("outputs", [])) for cell in notebook.cells]
    measured = next(text for text in printed if "oracle" in text)
    auc = {line.split()[0]: float(line.split()[1]) for line in measured.splitlines()}
    assert 0.6 < auc["ranker"] <= auc["oracle"], auc
    said = [line for line in printed[-2].splitlines() if line and not line.startswith("WARNING")]
    assert len(said) == 5, "recommendations"
