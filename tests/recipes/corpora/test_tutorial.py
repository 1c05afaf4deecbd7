"""The tutorial notebook: stored without outputs, and it runs; what it computes is what it says."""

import ast
import json
import math
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "recipes" / "Synthetic" / "tutorial.ipynb"
SYSTEMS = {"log-mel", "random", "control", "joint"}
PICTURES = 5


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_valid_and_stored_without_outputs(notebook):
    assert json.loads(NOTEBOOK.read_text(encoding="utf-8"))["nbformat"] == 4
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 10
    for cell in code:
        assert cell.outputs == [] and cell.execution_count is None, cell.source
        ast.parse(cell.source)
    assert not any(cell.metadata for cell in notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"


def test_every_code_cell_comes_after_a_text_and_links_lead_somewhere(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) >= 4
    missing = [link for link in links if not (NOTEBOOK.parent / link).exists()]
    assert not missing
    assert notebook.cells[0].cell_type == notebook.cells[-1].cell_type == "markdown"


@pytest.mark.long
def test_it_runs_and_its_figures_are_what_they_say(notebook, tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader", reason="the corpus needs requirements-demo.txt")
    for name, value in (("RESULTS", tmp_path), ("VOICES", 4), ("EPOCHS", 1)):
        monkeypatch.setenv(f"L2D_TUTORIAL_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, resources=place).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES
    for name in ("frame", "utterance", "joint", "control"):
        assert (tmp_path / name / "model" / "model.safetensors").is_file()
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert said.count("accepted: ") == 2 and "joint, shuffled labels" in said

    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert set(figures["systems"]) == SYSTEMS == set(figures["eer"]) - {"joint, shuffled labels"}
    assert all(0 <= rate <= 1 for rate in figures["eer"].values())
    assert abs(figures["eer"]["joint, shuffled labels"] - 0.5) < 0.15
    probes = [*figures["systems"].values(), *figures["changed"].values()]
    for value, shuffled, chance in (found for own in probes for found in own.values()):
        assert math.isfinite(value) and 0 <= value <= 1
        assert abs(shuffled - chance) < 0.2
    assert all(own["phone, from frames"][0] > own["phone, from frames"][1] + 0.05 for own in probes)
    for name, own in figures["changed"].items():  # and no closed form hides a voice from all probes
        for probe in ("means", "means and deviations", "random features"):
            value, shuffled, chance = own[f"voice, from {probe}"]
            hidden = {"means": "mean" in name, "means and deviations": "deviation" in name}
            if hidden.get(probe):
                assert abs(value - chance) < 0.2
            else:
                assert value > shuffled + 0.1
