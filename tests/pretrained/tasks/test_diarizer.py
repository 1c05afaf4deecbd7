"""Who speaks when: voices told apart, speech by level, clusters, turns, and the command."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

from lobes.states import FbankStates, PooledStates
from pretrained.__main__ import main
from pretrained.tasks.diarizer import (
    Diarizer,
    Turn,
    cluster,
    make_turns,
    speech_regions,
    speech_windows,
    to_rttm,
)
from tests.pretrained.exports import RATE, saved, utterance_encoder, written


class Timbre(torch.nn.Module):
    """Log-mel statistics: what tells made-up voices apart without training."""

    def __init__(self):
        super().__init__()
        self.states = PooledStates(FbankStates())

    def forward(self, wavs, wav_lens):
        return self.states(wavs, wav_lens)[0][:, 0, 0]


@pytest.fixture
def conversation(speech, tmp_path):
    """Return a file in which two voices take turns, and who speaks when."""
    pieces, turns, place = [], [], 0.0
    for seconds, speaker in ((3, 0), (4, 1), (3, 0), (5, 1)):
        pieces += [speech(seconds, speaker=1 + speaker), np.zeros(RATE // 2, np.float32)]
        turns.append((place, place + seconds, speaker))
        place += seconds + 0.5
    samples = np.concatenate(pieces)
    samples += np.random.default_rng(0).normal(0, 1e-4, len(samples)).astype(np.float32)
    return written(tmp_path / "a.wav", samples), turns


def test_two_voices_are_told_apart(conversation):
    path, expected = conversation
    found = Diarizer(Timbre()).diarize_file(path, num_speakers=2)
    for start, end, speaker in found:
        assert start < end
        middle = (start + end) / 2
        [truth] = [who for begin, stop, who in expected if begin - 0.1 < middle < stop + 0.1]
        assert truth == speaker
    spoken = sum(end - start for start, end, _ in found)
    assert 12 < spoken < 15.5
    assert {speaker for *_, speaker in Diarizer(Timbre()).diarize_file(path, 1)} == {0}


def test_embeddings_are_those_of_each_window_alone(speech):
    encoder, audio = utterance_encoder(), speech(12)
    windows = [(place, place + 75 - place % 40) for place in range(0, 500, 13)]
    found = Diarizer(encoder).embed(audio, windows)
    for row, (begin, end) in zip(found, windows, strict=True):
        with torch.no_grad():
            alone = encoder(torch.from_numpy(audio[begin * 320 : end * 320])[None])[0]
        assert np.allclose(row, alone / alone.norm(), atol=1e-5)
    assert len(windows) > 32  # more than a batch


def test_speech_is_what_is_loud_enough_long_enough():
    audio, rng = np.zeros(20 * RATE), np.random.default_rng(0)
    for start, end, level in (
        (1, 4, 0.3),
        (4.2, 6, 0.02),  # 23 dB lower, after a gap that is bridged
        (7, 9, 0.004),  # 37 dB lower
        (10, 10.1, 0.3),  # too short
        (12, 20, 0.3),
    ):
        noise = rng.normal(size=int((end - start) * RATE))
        audio[int(start * RATE) : int(start * RATE) + len(noise)] = level * noise
    assert speech_regions(audio) == [(50, 300), (600, 1000)]
    assert speech_regions(1e-3 * audio) == [(50, 300), (600, 1000)]
    assert speech_regions(np.concatenate([audio, np.zeros(1000 * RATE)])) == [
        (50, 300),
        (600, 1000),
    ]
    assert speech_regions(audio[:100]) == []


@pytest.mark.parametrize("seconds", [0.3, 1.4, 1.5, 1.6, 2.24, 9.37])
def test_windows_cover_a_stretch(seconds):
    end = int(seconds * 50)
    windows = speech_windows(np.full(end * 320, 0.1))
    assert windows[0][0] == 0 and windows[-1][1] == end
    starts = np.array([begin for begin, _ in windows])
    assert (np.diff(starts) > 0).all() and (np.diff(starts) <= 37).all()
    assert {stop - begin for begin, stop in windows} == {min(75, end)}


def slow_clusters(directions, threshold, number=None):
    """Average linkage by its definition: join the two nearest clusters, again and again."""
    clusters = [[place] for place in range(len(directions))]

    def distance(a, b):
        return np.mean([cosine(directions[i], directions[j]) for i in a for j in b])

    while len(clusters) > (number or 1):
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a)]
        a, b = min(pairs, key=lambda pair: distance(clusters[pair[0]], clusters[pair[1]]))
        if number is None and distance(clusters[a], clusters[b]) > threshold:
            break
        clusters[b] += clusters.pop(a)
    return {frozenset(members) for members in clusters}


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, 6))[rng.integers(3, size=14)] + 0.6 * rng.normal(size=(14, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for options in ((0.3,), (0.7,), (0.0, 3)):
        labels = cluster(rows, *options)
        found = {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}
        assert found == slow_clusters(rows, *options)


def test_equal_windows_are_one_speaker():
    row = np.random.default_rng(0).normal(size=8)
    rows = np.tile(row / np.linalg.norm(row), (9, 1))
    assert (
        set(cluster(rows, 0.5)) == set(cluster(rows, 0.5, 1)) == set(cluster(rows[:1], 0.5)) == {1}
    )


def test_each_frame_has_the_window_whose_middle_is_nearest():
    rng, windows, place = np.random.default_rng(0), [], 0
    for _ in range(12):
        windows += speech_windows(np.full(320 * int(rng.integers(10, 300)), 0.1))
    shifted = []
    for begin, end in windows:
        place += 400 if begin == 0 else 0
        shifted.append((place + begin, place + end))
    labels = rng.integers(3, size=len(shifted)) + 5
    turns = make_turns(shifted, labels)
    names = list(dict.fromkeys(labels))
    middles = np.array([(begin + end) / 2 for begin, end in shifted])
    for frame in range(shifted[-1][1] + 5):
        inside = [i for i, (begin, end) in enumerate(shifted) if begin <= frame < end]
        time = frame / 50 + 0.01
        found = [turn.speaker for turn in turns if turn.start < time < turn.end]
        if not inside:
            assert found == []
            continue
        distances = np.abs(middles[inside] - frame - 0.5)
        nearest = [
            labels[i] for i, d in zip(inside, distances, strict=True) if d < min(distances) + 1
        ]
        assert len(found) == 1 and names[found[0]] in nearest
    for before, after in zip(turns, turns[1:], strict=False):
        assert before.end < after.start or before.speaker != after.speaker


def test_rttm_holds_what_was_found():
    turns = [Turn(0.0, 1.54, 0), Turn(1.54, 70.02, 12)]
    assert to_rttm("of a\tmeeting", turns).splitlines() == [
        "SPEAKER of_a_meeting 1 0.000 1.540 <NA> <NA> speaker0 <NA> <NA>",
        "SPEAKER of_a_meeting 1 1.540 68.480 <NA> <NA> speaker12 <NA> <NA>",
    ]


def test_the_command(conversation, encoders_folder, tmp_path, capsys):
    encoder = utterance_encoder()
    folder = saved(tmp_path / "model", {"utterance_encoder": encoder}, None)
    command = ["diarize", str(conversation[0]), "--out", str(tmp_path / "out"), "--model"]
    assert main([*command, str(folder), "--speakers", "2"]) == 0
    expected = to_rttm("a", Diarizer(encoder).diarize_file(conversation[0], 2))
    assert (tmp_path / "out" / "a.rttm").read_text() == expected and expected.count("\n") > 2
    for arguments, message in (
        ([str(encoders_folder)], "holds no utterance encoder"),
        ([str(folder), "--threshold", "3"], r"threshold must be a cosine distance in (0, 2)"),
        ([str(folder), "--speakers", "0"], "--speakers must be at least 1"),
        ([str(folder), "--speakers", "2", "--threshold", "1"], "takes the place of --threshold"),
    ):
        assert main([*command[:3], str(tmp_path / "other"), "--model", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*"))
    assert main([command[0], *[command[1]] * 2, *command[2:], str(folder)]) == 2
    assert "2 files would be written to" in capsys.readouterr().err
