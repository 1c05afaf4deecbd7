"""Models of the Hub in other toolkits: s3prl's upstreams, SpeechBrain's from_hparams, MP3S."""

import torch
from speechbrain.utils.fetching import LocalStrategy

from pretrained import Learn2Diss
from pretrained.exported import load_folder
from pretrained.interfaces import WaveformEncoder
from pretrained.toolkits.layouts import to_speechbrain
from pretrained.toolkits.upstreams import UPSTREAMS
from pretrained.toolkits.weighted_frames import WeightedFrames
from tests.pretrained.exports import wavs_of

NAME = "someone/learn2diss"


def publish(hub, folder):
    hub.create(NAME)
    hub.commit(NAME, {path.name: path.read_bytes() for path in folder.iterdir()})


def test_upstreams_and_mp3s_take_the_name_of_a_model(hub, folder):
    publish(hub, folder)
    expected = Learn2Diss.from_pretrained(folder).encode(wavs_of(), None, True).hidden_states
    states = UPSTREAMS["learn2diss_frames"](NAME).eval()([wavs_of()[0]])["hidden_states"]
    assert all(torch.equal(x[:, :49], y) for x, y in zip(states, expected, strict=True))
    found = WeightedFrames(f"{NAME}@main").eval()(wavs_of())
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


def test_speechbrain_loads_its_layout_from_the_hub(hub, folder, tmp_path):
    to_speechbrain(*load_folder(folder), tmp_path / "layout")
    publish(hub, tmp_path / "layout")
    model = WaveformEncoder.from_hparams(
        source=NAME, savedir=str(tmp_path / "savedir"), local_strategy=LocalStrategy.COPY
    )
    expected = Learn2Diss.from_pretrained(folder).encode(wavs_of()).frames
    assert torch.equal(model.encode_batch(wavs_of()), expected)
    assert any("hyperparams.yaml" in path for path in hub.asked)
