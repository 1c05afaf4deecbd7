"""Text between markers of a README, and links of the experiments' pages."""

import re

import pytest

from recipes.experiments.readmes import write_between
from recipes.experiments.runner import RECIPES

EXPERIMENTS = RECIPES / "experiments"

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


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text(encoding="utf-8"))
    assert links
    for place, heading in links:
        target = path.parent / place if place else path
        assert target.exists(), place
        if heading:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
