"""Attacks by the command line: what is attacked, what is written, what is refused."""

import pytest

from recipes.common.evaluation import probe_fitting
from recipes.common.evaluation.attacks import xvector_attacker
from recipes.common.evaluation.attacks.speaker_attacks import ATTACKERS
from recipes.experiments import attack
from recipes.experiments.runner import read_figures
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech


@pytest.fixture(scope="module")
def manifests(librispeech, tmp_path_factory):
    """The manifests of all splits: 6, 3 and 3 speakers of 6 utterances."""
    folder = tmp_path_factory.mktemp("manifests")
    prepare_librispeech(librispeech, folder, list(attack.SPLITS), num_workers=1)
    return folder


def arguments_of(manifests, librispeech, folder, *more):
    given = ("--features", "fbank", "--manifests", manifests, "--data_folder", librispeech)
    return [*map(str, (*given, "--output_folder", folder, *more))]


@pytest.mark.long
def test_log_mel_bands_are_attacked(manifests, librispeech, tmp_path, monkeypatch, capsys):
    for name, value in {"CHANNELS": 8, "BATCH": 8, "MAX_STEPS": 5, "CHECK_EVERY": 5}.items():
        monkeypatch.setattr(xvector_attacker, name, value)
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 10)
    attack.main(arguments_of(manifests, librispeech, tmp_path))
    table = capsys.readouterr().out
    assert table.count("| accuracy |") == table.count("| EER |") == len(ATTACKERS)
    assert table.count("**") == 4
    found = read_figures(tmp_path)
    assert list(found["attackers"]) == list(ATTACKERS)
    best = found["best"]["eer"]
    for name, attacker in found["attackers"].items():
        assert bool(attacker["test"]["eer"]["evidence"]) == (name == best)
    assert not (tmp_path / "states").exists()


def test_what_is_missing_is_told(manifests, librispeech, tmp_path):
    arguments = arguments_of(manifests, librispeech, tmp_path / "A")
    with pytest.raises(SystemExit, match="nothing"):
        attack.main([*arguments, "--features", str(tmp_path / "nothing")])
    assert not (tmp_path / "A").exists()
