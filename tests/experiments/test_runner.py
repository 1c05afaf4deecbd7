"""The paths that a study is given."""

import pytest

from recipes.experiments.runner import check_paths, runs_parser

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
