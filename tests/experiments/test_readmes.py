"""Text between markers of a README."""

import pytest

from recipes.experiments.readmes import write_between

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
