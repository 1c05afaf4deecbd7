"""The paths that a study is given, and the figures that it kept."""

import pytest

from recipes.experiments.runner import check_paths, read_kept, runs_parser

PATHS = {"lexicon": "words and their phones", "output_folder": "where the runs go"}


def refused(capsys, *words):
    """Return what a command line is refused with."""
    parser = runs_parser("Study.", PATHS, seeds=1)
    with pytest.raises(SystemExit):
        check_paths(parser, parser.parse_args(list(map(str, words))), PATHS)
    return capsys.readouterr().err


def test_paths_that_are_not_given_are_named_together(capsys):
    assert "--lexicon, --output_folder must be given too" in refused(capsys)


def test_paths_that_cannot_be_are_named(capsys, tmp_path):
    file = tmp_path / "file"
    said = refused(capsys, "--lexicon", file, "--output_folder", tmp_path)
    assert f"--lexicon {file} does not exist" in said
    file.touch()
    assert "is a file" in refused(capsys, "--lexicon", file, "--output_folder", file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "figures.json is missing: run the study"),
        ("{", "figures.json, line 1: cannot be read"),
    ],
)
def test_figures_that_cannot_be_read_are_named(text, told, tmp_path):
    path = tmp_path / "figures.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=told):
        read_kept(path)
