"""The command transcribe: texts, times as the audio has them, and subtitles."""

import json

import numpy as np
import pytest
import torch

from lobes.heads import CTCHead
from pretrained import Transcriber
from pretrained.__main__ import main
from pretrained.commands.subtitles import format_srt, make_cues
from pretrained.tasks.transcriber import Word, join_pieces
from pretrained.tokenizers import SymbolTokenizer
from tests.pretrained.exports import LETTERS_FACTS, modules_of, saved, tone_head, tones, written


def test_a_line_for_each_file(transcriber_folder, tmp_path, capsys):
    files = [written(tmp_path / f"{n}.wav", tones(t)) for n, t in enumerate((" AB ", " B ", "  "))]
    assert main(["transcribe", *map(str, files), "--model", str(transcriber_folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{files[0]}\tAB\n{files[1]}\tB\n{files[2]}\t\n" and not printed.err


def test_folders_and_lists_are_taken(transcriber_folder, tmp_path, capsys):
    for name in ("b/1.wav", "a/1.wav"):
        (tmp_path / "speech" / name).parent.mkdir(parents=True)
        written(tmp_path / "speech" / name, tones(" A "))
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'speech'}\n")
    for word in (str(tmp_path / "speech"), f"@{tmp_path / 'list.txt'}"):
        assert main(["transcribe", word, "--model", str(transcriber_folder)]) == 0
        names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
        assert names == [str(tmp_path / "speech" / name / "1.wav") for name in "ab"]


def test_a_bad_file_does_not_stop_the_others(transcriber_folder, tmp_path, capsys):
    good = [written(tmp_path / name, tones(" A ")) for name in ("first.wav", "last.wav")]
    bad = [tmp_path / "none.wav", written(tmp_path / "short.wav", tones("A")[:320])]
    files = map(str, [good[0], *bad, good[1]])
    assert main(["transcribe", *files, "--model", str(transcriber_folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{path}\tA\n" for path in good)
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "none.wav is not a file" in lines[0] and "short.wav is too short" in lines[1]


@pytest.mark.parametrize("form", ["text", "jsonl", "vtt", "srt"])
def test_what_could_steer_a_terminal_is_not_printed(form, tmp_path, capsys):
    tokenizer = SymbolTokenizer(["\x1b", "\x9b"])
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    folder = saved(tmp_path / "model", {"ctc_head": tone_head()}, facts)
    path = written(tmp_path / "a.wav", tones(" BAB "))
    out = ["--out", str(tmp_path)] if form in ("vtt", "srt") else []
    assert main(["transcribe", str(path), "--model", str(folder), "--format", form, *out]) == 0
    said = capsys.readouterr().out
    if out:
        said = (tmp_path / f"a.{form}").read_text()
        assert "00:00:00" in said
    assert not {"\x1b", "\x9b"} & set(said)


def test_times_are_those_of_the_tones(tmp_path, capsys):
    facts = {"features": "fbank", "tokenizer": SymbolTokenizer(["A", "B"], "phones").to_config()}
    folder = saved(tmp_path / "model", {"ctc_head": tone_head()}, facts)
    # Some 45 s: what lies behind 30 s is timed from windows.
    long = np.concatenate([tones(" A" + 109 * " " + "B ") for _ in range(2)])
    for name, audio, expected in (
        ("short", tones("  AB  A "), [("A", 0.4, 0.6), ("B", 0.6, 0.8), ("A", 1.2, 1.4)]),
        (
            "long",
            long,
            [(s, t, t + 0.2) for s, t in zip("ABAB", (0.2, 22.2, 22.8, 44.8), strict=True)],
        ),
    ):
        path = written(tmp_path / f"{name}.wav", audio)
        words = ["transcribe", str(path), "--model", str(folder), "--format", "jsonl"]
        assert main(words) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["path"] == str(path) and found.keys() == {"path", "text", "phones"}
        assert found["text"] == Transcriber.from_pretrained(folder).transcribe_file(path)
        assert found["text"] == " ".join(text for text, _, _ in expected)
        for phone, (text, start, end) in zip(found["phones"], expected, strict=True):
            assert phone["text"] == text
            assert abs(phone["start"] - start) <= 0.041 and abs(phone["end"] - end) <= 0.041


def strided_head():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = CTCHead(num_layers=3, in_dim=32, num_symbols=3, hidden_dim=8, stride=3)
        with torch.no_grad():
            head.output.weight.mul_(10)
        return head


def test_a_stride_makes_frames_longer(tmp_path):
    modules = modules_of("frame_encoder", ctc_head=strided_head())
    facts = {**LETTERS_FACTS, "features": "frame_encoder"}
    transcriber = Transcriber.from_pretrained(saved(tmp_path / "model", modules, facts))
    path = written(tmp_path / "a.wav", tones("AB AB"))
    logits = transcriber.logits(path)[0]
    words = transcriber.align_file(path)
    assert " ".join(word.text for word in words) == transcriber.transcribe_file(path)
    frames = [round(second / 0.06, 6) for word in words for second in (word.start, word.end)]
    assert frames and all(frame == int(frame) for frame in frames)
    assert max(frames) <= len(logits) == 17


@pytest.mark.parametrize("tokenizer", ["characters", "phones", "pieces"], indirect=True)
def test_words_are_what_the_tokenizer_decodes(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(50):
        indices = rng.integers(0, len(tokenizer), 12).tolist()
        runs = [(tokenizer.pieces[index], n, n + 1) for n, index in enumerate(indices)]
        words = join_pieces(runs, 1.0)
        assert " ".join(word.text for word in words) == tokenizer.decode(indices)
        ends = [second for word in words for second in (word.start, word.end)]
        assert ends == sorted(ends)


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_are_files_below_out(form, transcriber_folder, tmp_path, capsys):
    for name in ("b/1.wav", "a/1.wav"):
        (tmp_path / "speech" / name).parent.mkdir(parents=True)
        written(tmp_path / "speech" / name, tones(" AB "))
    command = ["transcribe", str(tmp_path / "speech"), "--model", str(transcriber_folder)]
    assert main([*command, "--format", form, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == ""
    found = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    }
    assert found == {f"a/1.{form}", f"b/1.{form}"}
    text = (tmp_path / "out" / "a" / f"1.{form}").read_text()
    head, number, point = ("", "1\n", ",") if form == "srt" else ("WEBVTT\n\n", "", ".")
    [line] = [line for line in text.splitlines() if "-->" in line]
    assert text == f"{head}{number}{line}\nAB\n" and line.count(point) == 2


@pytest.mark.parametrize(
    ("form", "out"), [("srt", []), ("text", ["--out", "x"]), ("jsonl", ["--out", "x"])]
)
def test_out_goes_with_subtitles_alone(
    form, out, transcriber_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["transcribe", "a.wav", "--model", str(transcriber_folder), "--format", form, *out]
    assert main(command) == 2 and not (tmp_path / "x").exists()
    assert "srt and vtt are files there" in capsys.readouterr().err


def test_cues_are_short_and_follow_on_each_other():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.exponential(0.5, 300))
    words = [Word("W" * rng.integers(1, 12), s, s + 0.02) for s in starts]
    cues = make_cues(words)
    assert " ".join(text for text, _, _ in cues) == " ".join(word.text for word in words)
    assert all(len(text) <= 42 for text, _, _ in cues)
    assert all(end - start <= 7 + 1e-9 for _, start, end in cues)
    for (_, start, end), (_, following, _) in zip(cues, cues[1:], strict=False):
        assert start < end <= following and (end - start >= 1 - 1e-9 or end == following)
    assert len(make_cues([Word("A" * 50, 0.0, 9.0), Word("B", 9.0, 9.1)])) == 2
    assert make_cues([]) == [] and format_srt([]) == ""


# A beam

ARPA = """
\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-3.0	<unk>
-99	<s>	0
-0.5	</s>
-2.0	A	0
-0.1	B	0

\\2-grams:
-0.1	B B

\\end\\
"""


@pytest.fixture
def unsure_folder(tmp_path):
    """A transcriber of one phone in 80 ms, to which A is somewhat likelier than B."""
    head = CTCHead(1, 240, 3, hidden_dim=2, lstm_layers=0, stride=4)
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(torch.tensor([-5.0, 0.5, 0.0]))
    facts = {"features": "fbank", "tokenizer": SymbolTokenizer(["A", "B"], "phones").to_config()}
    return saved(tmp_path / "unsure", {"ctc_head": head}, facts)


@pytest.mark.parametrize(("weight", "expected"), [("1.0", "B"), ("0.001", "A")])
def test_a_language_model_changes_the_text(
    weight, expected, unsure_folder, tmp_path, capsys, kenlm
):
    path, lm = written(tmp_path / "a.wav", tones("A")[:800]), tmp_path / "lm.arpa"
    lm.write_text(ARPA)
    words = ["transcribe", str(path), "--model", str(unsure_folder)]
    beam = ["--beam_size", "20"]
    for more, text in (
        ([], "A"),
        (beam, "A"),
        ([*beam, "--lm_file", str(lm), "--lm_weight", weight], expected),
    ):
        assert main([*words, *more]) == 0
        assert capsys.readouterr().out == f"{path}\t{text}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lm_file", "L.arpa"], "--lm_file has no use without --beam_size"),
        (["--beam_size", "5", "--lm_weight", "1"], "--lm_weight has no use without --lm_file"),
        (["--word_score", "1"], "--word_score has no use without --lm_file"),
        (["--beam_size", "0"], "beam_size is 0, expected at least 1"),
        (["--beam_size", "5", "--lm_file", "none.arpa"], "none.arpa is missing"),
    ],
)
def test_options_of_a_beam_that_cannot_be_used_are_refused(
    options, message, transcriber_folder, tmp_path, capsys
):
    path = written(tmp_path / "a.wav", tones(" A "))
    assert main(["transcribe", str(path), "--model", str(transcriber_folder), *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out
