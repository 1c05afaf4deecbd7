"""Each row of the table of toolkits, at the tiny size, and the table itself."""

from importlib.util import find_spec

import pytest

from tests.pretrained.toolkits.comparing import (
    ERASED,
    KEEP_ERASED,
    PAGE,
    ROWS,
    compare,
    make_encoders,
    table,
)

# These normalise the first layer over padding, too.
CHANGED_BY_PADDING = {
    "transformers",
    "transformers, WavLM",
    "torchaudio",
    "SpeechBrain, HuBERT",
    "MP3S, theirs",
    "s3prl, hf_hubert",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_toolkit_gives_our_hidden_states(name, tmp_path):
    row = ROWS[name]
    if find_spec(row.toolkit) is None:
        pytest.skip(f"{row.toolkit} is not installed")
    encoders = make_encoders("tiny", row.attention, ERASED if name in KEEP_ERASED else 0)
    found = compare(row, encoders, tmp_path)
    assert found["alone"] < 1e-4
    assert row.pads == ("padded" in found)
    if row.pads:
        changed = found["padded"] > 0.1 and found["share"] > 0.1
        assert changed if name in CHANGED_BY_PADDING else found["padded"] < 1e-4


def test_the_table_of_the_readme_has_every_row():
    figures = {"alone": 0.0, "padded": 0.0, "share": 0.0, "version": ""}
    made = table(dict.fromkeys(ROWS, figures)).splitlines()
    text = PAGE.read_text(encoding="utf-8").partition("<!-- toolkits -->\n")[2]
    shown = text.partition("<!-- /toolkits -->")[0].splitlines()

    def second_cells(lines):
        return [line.split("|")[2].strip() for line in lines]

    assert second_cells(shown) == second_cells(made)
