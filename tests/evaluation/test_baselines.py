"""Baselines: fresh weights are no others, and log-mel statistics tell speakers on real speech."""

import torch

from lobes.utterance_encoder import UtteranceEncoder
from recipes.common.data.table import read_manifest
from recipes.common.evaluation.baselines import fbank_states, fresh
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.scoring import score_trials
from recipes.common.evaluation.verification import MeanState, embed
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb, read_trials, trials_path


def test_fresh_weights_leave_the_generator():
    encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=12)
    state = torch.get_rng_state()
    made = fresh(encoder, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.config == encoder.config and not made.training


def test_fbank_statistics_on_real_speech(real_speech, tmp_path):
    """Log-mel statistics tell speakers of one session each apart far better than chance."""
    root = real_speech / "voxceleb1"
    prepare_voxceleb(root, tmp_path, ["veri_dev"])
    trials = read_trials(trials_path(root, "veri_dev"))
    rows = read_manifest(tmp_path / "veri_dev.csv")
    scores = score_trials(embed(MeanState(fbank_states("utterance")), rows, root), trials)
    assert 0.05 < eer(scores, [label for label, _, _ in trials]) < 0.2
