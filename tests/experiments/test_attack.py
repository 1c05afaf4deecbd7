"""Attacks by the command line: what is attacked, what is kept, what is made again."""

import json

import pytest

from recipes.common.evaluation import probe_fitting
from recipes.common.evaluation.attacks import xvector_attacker
from recipes.common.evaluation.attacks.speaker_attacks import ATTACKERS
from recipes.experiments import attack
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
def test_log_mel_bands_are_attacked_once(manifests, librispeech, tmp_path, monkeypatch, capsys):
    for name, value in {"CHANNELS": 8, "BATCH": 8, "MAX_STEPS": 5, "CHECK_EVERY": 5}.items():
        monkeypatch.setattr(xvector_attacker, name, value)
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 10)
    arguments = arguments_of(manifests, librispeech, tmp_path)
    attack.main(arguments)
    table = capsys.readouterr().out
    assert table.count("| accuracy |") == table.count("| EER |") == 4 and table.count("**") == 4
    found = json.loads((tmp_path / attack.FILE).read_text())
    assert list(found["attackers"]) == list(ATTACKERS)
    best = found["best"]["eer"]
    for name, attacker in found["attackers"].items():
        assert bool(attacker["test"]["eer"]["evidence"]) == (name == best)
    assert not (tmp_path / "states").exists()
    monkeypatch.setattr(attack, "attack_frames", None)
    attack.main(arguments)
    assert capsys.readouterr().out == table


def test_another_model_is_attacked_anew(manifests, librispeech, tmp_path, monkeypatch):
    made = []

    def attack_frames(system, parts, states, lexicon):
        states.mkdir(parents=True)
        made.append(system.name)
        return {"attackers": {}, "best": {}}

    monkeypatch.setattr(attack, "attack_frames", attack_frames)
    options = attack.read_options(arguments_of(manifests, librispeech, tmp_path))
    for _ in range(2):
        attack.attack_once(options)
    assert made == ["FBANK"]
    monkeypatch.setattr(attack, "CODE", ("lobes/losses.py",))  # other code made the figures
    attack.attack_once(options)
    assert made == ["FBANK", "FBANK"]


def test_what_is_missing_is_told(manifests, librispeech, tmp_path):
    arguments = arguments_of(manifests, librispeech, tmp_path / "A")
    with pytest.raises(SystemExit, match="nothing"):
        attack.main([*arguments, "--features", str(tmp_path / "nothing")])
    assert not (tmp_path / "A").exists()
