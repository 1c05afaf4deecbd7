"""Text between markers of a README."""

import re
import subprocess
from pathlib import Path

import pytest

from recipes.experiments.readmes import write_between

ROOT = Path(__file__).parents[2]
RESULTS = ("Results", "Results of the experiments", "Does it work?", "Measured")
BLOCK = re.compile(r"^<!-- ([^/].*?) -->$.*?^<!-- /\1 -->$", re.DOTALL | re.MULTILINE)
# What was run, on how much speech, through which channel, with which confidence: no results.
SETTINGS = re.compile(r"^ {4}.*$|`[^`]*`|95 %|\d[\d.]* (h|hours|kHz|s)\b|GSM\s6\.10", re.MULTILINE)
FIGURE = re.compile(r"\d[\d.,]* ?(%|per cent|points?\b|nats\b)|\b\d+\.\d+")

TABLE = "In `<!-- a -->`:\n<!-- a -->\nold\nlines\n<!-- /a -->\n<!-- b -->\n<!-- /b -->\nafter"


def test_text_replaces_what_stands_between_the_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(TABLE)
    for text in ("first\ntext", "second"):
        write_between(path, "a", text)
        assert path.read_text() == TABLE.replace("old\nlines", text)
    write_between(path, "b", "third")
    assert path.read_text() == TABLE.replace("old\nlines", "second").replace(
        "<!-- b -->\n", "<!-- b -->\nthird\n"
    )


@pytest.mark.parametrize("marker", ["<!-- a -->", "<!-- /a -->"])
def test_a_missing_marker_is_named_and_the_file_stays(tmp_path, marker):
    path = tmp_path / "README.md"
    text = TABLE.replace(f"{marker}\n", "")
    path.write_text(text)
    with pytest.raises(ValueError, match=f"README.md lacks the line {marker}"):
        write_between(path, "a", "new")
    assert path.read_text() == text


def test_markers_in_the_wrong_order_are_refused(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("<!-- /a -->\n<!-- a -->\n")
    with pytest.raises(ValueError, match="lacks the line <!-- /a -->"):
        write_between(path, "a", "new")


def sections_with_results(text):
    """Yield title and text of each section that tells of results, without what programs write.

    A section ends where the next title of its level or of a higher one stands.
    """
    text = BLOCK.sub("", text)
    titles = [*re.finditer(r"^(#+) (.*)$", text, re.MULTILINE)]
    for place, title in enumerate(titles):
        if title[2] in RESULTS:
            later = (x for x in titles[place + 1 :] if len(x[1]) <= len(title[1]))
            end = next((x.start() for x in later), len(text))
            yield title[2], text[title.end() : end]


def figures_by_hand(text):
    """Return the figures of sections with results that no program wrote."""
    sections = (SETTINGS.sub("", section) for _, section in sections_with_results(text))
    return [found[0] for section in sections for found in FIGURE.finditer(section)]


def test_every_figure_of_results_is_written_by_a_program():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    pages = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages.split()}
    assert sum(bool(list(sections_with_results(text))) for text in texts.values()) >= 9
    by_hand = {page: figures_by_hand(text) for page, text in texts.items()}
    assert not {page: figures for page, figures in by_hand.items() if figures}


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("# Results\nIt makes 12.5 % errors.\n", ["12.5 %"]),
        ("# A\n## Results\nBy 3 points.\n### More\nOr 4.5.\n## Else\n6 %\n", ["3 points", "4.5"]),
        ("# Results\n<!-- a -->\n| 12.5 % |\n<!-- /a -->\nOn 2.25 h, of 95 % intervals.\n", []),
        ("# How\nAt 80 %.\n# Results\n    train.py --lr 0.1\nWith `--lr 0.1`.\n", []),
    ],
)
def test_figures_by_hand_are_found(text, figures):
    assert figures_by_hand(text) == figures
