"""Alignments: TextGrid and CTM in every spelling, phones of frames, refusals; forced alignment."""

import difflib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lobes.signal import num_frames
from recipes.common.annotations.alignments import frame_phones, read_alignments, write_ctm
from recipes.common.annotations.triphones import triphones
from recipes.common.data.files import CorpusError
from recipes.LibriSpeech import align
from recipes.Synthetic import corpus
from recipes.Synthetic.synthetic_prepare import list_utterances

ALIGN = Path(align.__file__)
PHONES = [(0, 0.1, ""), (0.1, 0.25, "HH_B"), (0.25, 0.4, "AH0"), (0.4, 0.5, "spn")]
CLEAN = [(0, 0.1, ""), (0.1, 0.25, "HH"), (0.25, 0.4, "AH"), (0.4, 0.5, "spn")]
WORDS = [(0, 0.1, ""), (0.1, 0.4, 'the "hut", 1 <b>\n! 2')]
ARPABET = {  # eSpeak's phones, where they have another name or are none of ARPAbet's
    **{"D": "DH", "T": "TH", "S": "SH", "Z": "ZH", "N": "NG", "tS": "CH", "dZ": "JH", "h": "HH"},
    **{"j": "Y", "i:": "IY", "i": "IY", "u:": "UW", "U": "UH", "I": "IH", "I2": "IH", "I#": "IH"},
    **{"E": "EH", "V": "AH", "a#": "AH", "@": "AH", "@2": "AH", "a": "AE", "aa": "AE", "0": "AA"},
    **{"A:": "AA", "O:": "AO", "3:": "ER", "3": "ER", "eI": "EY", "aI": "AY", "oU": "OW"},
    **{"aU": "AW", "OI": "OY", "t#": "T", "t2": "T", "r-": "R", "sil": "SIL"},
}


def rows(**durations):
    return [{"ID": name, "duration": duration} for name, duration in durations.items()]


def text_grid(tiers, short):
    """Return a TextGrid as Praat writes it; a tier is a name and its intervals, or points."""

    def put(name, value, depth=0):
        text = f'"{value}"' if isinstance(value, str) else f"{value}"
        lines.append(text if short else f"{'    ' * depth}{name} = {text} ")

    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    put("xmin", 0)
    put("xmax", 0.5)
    lines.append("<exists>" if short else "tiers? <exists> ")
    put("size", len(tiers))
    lines += [] if short else ["item []: "]
    for number, (name, parts) in enumerate(tiers, 1):
        kind = "points" if len(parts[0]) == 2 else "intervals"
        lines += [] if short else [f"    item [{number}]:"]
        put("class", "TextTier" if kind == "points" else "IntervalTier", 2)
        put("name", name, 2)
        put("xmin", 0, 2)
        put("xmax", 0.5, 2)
        put(f"{kind}: size", len(parts), 2)
        for place, (*times, label) in enumerate(parts, 1):
            lines += [] if short else [f"        {kind} [{place}]:"]
            for key, time in zip(("xmin", "xmax"), times, strict=False):
                put("number" if kind == "points" else key, time, 3)
            put("mark" if kind == "points" else "text", label.replace('"', '""'), 3)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("short", [False, True])
def test_a_textgrid_of_each_spelling(short, newline, encoding, tmp_path):
    tiers = [("words", WORDS), ("clicks", [(0.2, "ə")]), ("Phones", PHONES)]
    text = text_grid(tiers, short).replace("\n", newline)
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "a.b-1.TextGrid").write_bytes((mark + text).encode(encoding))
    assert read_alignments(tmp_path, rows(**{"other": 1, "a.b-1": 0.5})) == {"a.b-1": CLEAN}


def test_labels_of_other_languages_are_kept_and_comments_passed_over(tmp_path):
    text = text_grid([("phone", [(0, 0.25, "ɔ̃ː"), (0.25, 0.5, "t2")])], short=True)
    text = text.replace("<exists>", "<exists> ! 7 tiers, says this comment\n  (not [8] either)")
    (tmp_path / "a.textgrid").write_text(text, encoding="utf-8")
    assert read_alignments(tmp_path, rows(a=0.5)) == {"a": [(0, 0.25, "ɔ̃ː"), (0.25, 0.5, "t2")]}


def test_a_ctm_of_several_utterances_with_all_that_it_may_have(tmp_path):
    lines = [";; a comment", "a 1 0.0 0.2 SIL_S", "b A 0.1 0.1 AH0 0.93", "", "c 1 what ever"]
    lines += ["a 1 0.2 0.25 EH1_B 1.0", "b A 0.2 0.05 ah2_I", "b A 0.25 0.05 t_E"]
    (tmp_path / "x.CTM").write_text("\n".join(lines))
    (tmp_path / "notes.txt").write_text("no alignment")
    found = read_alignments(tmp_path, rows(b=0.3, d=1, a=0.45))
    assert list(found) == ["b", "a"]
    assert [phone for _, _, phone in found["b"]] == ["AH", "ah", "t"]
    assert found["a"] == [(0, 0.2, "SIL"), (0.2, pytest.approx(0.45), "EH")]


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    alignments = {}
    for number in range(20):
        edges = np.cumsum(rng.uniform(0, 0.3, 30)).round(4).tolist()
        names = rng.choice(["SIL", "AH", "T", "ɔ̃ː"], 29).tolist()
        alignments[f"u{number}"] = list(zip(edges, edges[1:], names, strict=False))
    write_ctm(alignments, tmp_path / "x.ctm")
    found = read_alignments(tmp_path, rows(**{name: 9.0 for name in alignments}))
    assert found.keys() == alignments.keys()
    for name, alignment in alignments.items():
        assert [phone for *_, phone in found[name]] == [phone for *_, phone in alignment]
        times = [[part[:2] for part in own] for own in (found[name], alignment)]
        np.testing.assert_allclose(*times, atol=1e-9)


@pytest.mark.parametrize("utterance, phone", [("a b", "AH"), ("a", ""), ("a", "A H"), ("", "AH")])
def test_what_a_ctm_cannot_hold_is_not_written(utterance, phone, tmp_path):
    with pytest.raises(ValueError, match="cannot hold"):
        write_ctm({utterance: [(0, 1, phone)]}, tmp_path / "x.ctm")
    assert not list(tmp_path.iterdir())


def test_an_alignment_ends_with_its_audio(tmp_path):
    (tmp_path / "x.ctm").write_text("a 1 0 0.3 AH\na 1 0.3 0.2 T\na 1 0.5 0.03 SIL\n")
    found = read_alignments(tmp_path, rows(a=0.48))
    assert found == {"a": [(0, 0.3, "AH"), (0.3, 0.48, "T")]}
    with pytest.raises(CorpusError, match=r"x.ctm, line 3: a has 'SIL' .* ends at 0.47 s"):
        read_alignments(tmp_path, rows(a=0.47))


GRID = text_grid([("words", WORDS), ("phones", PHONES)], short=True)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("x.ctm", "a 1 0 0.2 T\n\na 1 0.1 0.2 D\n", r"x.ctm, line 3: a has 'D' .* in order"),
        ("x.ctm", "a 1 0.2 -0.1 T\n", "line 1: a has 'T' .* in order"),
        ("x.ctm", "a 1 -0.2 0.1 T\n", "line 1: a has 'T' .* in order"),
        ("x.ctm", "a 1 0.1 nan T\n", "line 1: a has 'T' .* in order"),
        ("x.ctm", "a 1 0.1 inf T\n", "line 1: a has 'T' .* ends at 0.5 s"),
        ("x.ctm", "a 1 0.1 0.2\n", "line 1: 'a 1 0.1 0.2' is not"),
        ("x.ctm", "a 1 0.1 T 0.2\n", "line 1: 'a 1 0.1 T 0.2' is not"),
        ("x.ctm", "b 1 0.1 0.2 T\n", "none of the 1 utterance"),
        ("x.ctm", b"a 1 0.1 0.2 \xff", "x.ctm, line 1: not text in UTF-8"),
        ("b.TextGrid", GRID, "none of the 1 utterance"),
        ("a.TextGrid", "", "a.TextGrid is no TextGrid as text"),
        ("a.TextGrid", '"ooTextFile" "Pitch 1"', "a.TextGrid is no TextGrid as text"),
        ("a.TextGrid", GRID.replace('"phones"', '"sounds"'), "tiers 'words', 'sounds': expected"),
        ("a.TextGrid", GRID.replace('"words"', '"phone"'), "tiers 'phone', 'phones': expected"),
        ("a.TextGrid", GRID.replace('"words"', '"phones"'), "is no TextGrid .*phones"),
        ("a.TextGrid", GRID.replace("0.5\n", "0.7\n"), "interval 4: a has 'spn' .* ends at 0.5"),
        (
            "a.TextGrid",
            text_grid([("phones", [(0, "T")])], True),
            "'phones': expected .* intervals",
        ),
        ("a.TextGrid", GRID.rpartition("0.4\n")[0], "cut short: its phones end at 0.4 s"),
        ("a.TextGrid", GRID.rpartition('"spn"')[0], "cut short: its phones end at 0.4 s"),
        ("a.TextGrid", GRID.replace('"spn"', '"spn'), "cut short: its phones end at 0.4 s"),
        ("a.TextGrid", GRID.replace("0.25\n0.4", "0.25\n0.2"), "is no TextGrid as text"),
        ("a.TextGrid", GRID.replace('0.5\n"spn"', '9.5\n"spn"'), "is no TextGrid .*9.5"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(name, text, message, tmp_path):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        read_alignments(tmp_path, rows(a=0.5))


def test_a_folder_without_alignments_or_with_two_of_an_utterance_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CorpusError, match="holds no alignments"):
            read_alignments(folder, rows(a=0.5))
    (tmp_path / "a.TextGrid").write_text(GRID)
    (tmp_path / "x.ctm").write_text("a 1 0 0.5 T\n")
    with pytest.raises(CorpusError, match=r"x.ctm: .*a.TextGrid has an alignment of a too"):
        read_alignments(tmp_path, rows(a=0.5))


def draw_alignment(rng):
    """Return an alignment on whole samples: silences, gaps, edges on the centres of frames."""
    alignment, place = [], 0
    for _ in range(rng.integers(1, 30)):
        place += int(rng.choice([0, 0, 0, 160, 1000]))
        stop = place + int(rng.choice([20, 200, 320, 800, rng.integers(1, 4000)]))
        name = str(rng.choice(["", "SIL", "sp", "AH", "T", "K", "S"]))
        alignment.append((place / 16000, stop / 16000, name))
        place = stop
    return alignment


def slow_frame_phones(alignment, frames):
    """Return the phone around the sample in the middle of each frame's 400."""
    found = []
    for frame in range(frames):
        centre = 320 * frame + 200
        around = [
            name
            for start, stop, name in alignment
            if round(start * 16000) <= centre < round(stop * 16000)
        ]
        assert len(around) <= 1
        found.append(around[0] if around and around[0] not in ("", "SIL", "sil", "sp") else None)
    return found


@pytest.mark.parametrize("seed", range(50))
def test_phones_of_frames_against_each_frame_by_itself(seed):
    rng = np.random.default_rng(seed)
    alignment = draw_alignment(rng)
    frames = num_frames(round(alignment[-1][1] * 16000)) + int(rng.integers(-1, 3))
    phones = frame_phones(alignment, max(0, frames))
    assert phones.dtype == object
    assert phones.tolist() == slow_frame_phones(alignment, frames)


def test_phones_of_frames_are_those_of_triphones():
    alignments = [
        (str(seed), "s", draw_alignment(np.random.default_rng(seed))) for seed in range(9)
    ]
    phones = {name: frame_phones(alignment, 5000) for name, _, alignment in alignments}
    items = triphones(alignments)
    assert len(items) > 20
    for item in items:
        own = [phone for phone in phones[item.utterance][item.start : item.stop] if phone]
        order = [item.context[0], item.phone, item.context[1]]
        assert set(own) <= set(order)
        assert own == sorted(own, key=order.index) or len(set(order)) < 3


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """A synthetic corpus of one speaker, and the rows of its manifest."""
    pytest.importorskip("espeakng_loader", reason="the corpus needs requirements-demo.txt")
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    corpus.make_corpus(folder, num_workers=1, speakers={"test": 1})
    listed, _ = list_utterances(folder, "test")
    listed = [{**row, "duration": soundfile.info(row["wav"]).duration} for row in listed]
    return folder / "alignments", listed


@pytest.mark.long
def test_alignments_of_the_synthetic_corpus(synthetic):
    folder, listed = synthetic
    found = read_alignments(folder, listed)
    assert list(found) == [row["ID"] for row in listed]
    for row in listed:
        alignment = found[row["ID"]]
        assert " ".join(phone for *_, phone in alignment) == row["phn"]
        assert alignment[0][0] == 0
        assert alignment[-1][1] == pytest.approx(row["duration"], abs=1e-4)
        audio, _ = soundfile.read(row["wav"])
        frames = num_frames(len(audio))
        assert frame_phones(alignment, frames).tolist() == slow_frame_phones(alignment, frames)


@pytest.fixture(scope="module")
def aligned(synthetic, tmp_path_factory):
    """A LibriSpeech tree of seven utterances of the synthetic corpus, and what aligns it."""
    pytest.importorskip("pocketsphinx", reason="forced alignment needs requirements-demo.txt")
    _, listed = synthetic
    root = tmp_path_factory.mktemp("aligned")
    chapter = root / "LibriSpeech" / "dev-clean" / "test00" / "0"
    chapter.mkdir(parents=True)
    lines = [f"{row['ID']} {row['wrd']}\n" for row in listed[:7]]
    lines[6] = lines[6].replace("\n", " ZZYZX\n")
    (chapter / "test00-0.trans.txt").write_text("".join(lines))
    for row in listed[:7]:
        (chapter / f"{row['ID']}.flac").symlink_to(row["wav"])
    (root / "lexicon.txt").write_text("THE DH AH0\nTHE(2) DH IY0\n")

    def run(output, *options):
        options = [f"--lexicon={root / 'lexicon.txt'}", f"--output_folder={output}", *options]
        return subprocess.run(
            [sys.executable, ALIGN, f"--data_folder={root / 'LibriSpeech'}", *options],
            capture_output=True,
            text=True,
            timeout=300,
        )

    return root, run


def start_errors(found, exact):
    """Return how much later (s) phones of ARPAbet start than the exact ones do.

    Counted are phones that both have at their place after the same phone.
    """
    exact = [(start, ARPABET.get(phone, phone.upper())) for start, _, phone in exact]
    found = [(start, phone) for start, _, phone in found]
    names = [[phone for _, phone in alignment] for alignment in (found, exact)]
    blocks = difflib.SequenceMatcher(None, *names, autojunk=False).get_matching_blocks()
    return [
        found[block.a + place][0] - exact[block.b + place][0]
        for block in blocks
        for place in range(1, block.size)
    ]


@pytest.mark.long
def test_forced_alignment_of_voices_whose_phones_are_known(synthetic, aligned, tmp_path):
    folder, listed = synthetic
    _, run = aligned
    done = run(tmp_path, "--splits", "dev-clean", "--jobs", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 utterances are aligned, 1 are not" in done.stdout
    failed = (tmp_path / "dev-clean.failed.txt").read_text()
    assert failed == f"{listed[6]['ID']}\tno pronunciation of ZZYZX\n"
    found, exact = read_alignments(tmp_path, listed), read_alignments(folder, listed)
    assert list(found) == [row["ID"] for row in listed[:6]]
    errors, control = [], []
    for row in listed[:6]:
        own = found[row["ID"]]
        assert own[0][0] == 0
        assert own[-1][1] == pytest.approx(row["duration"], abs=1e-4)
        starts, stops, _ = zip(*own, strict=True)
        assert starts[1:] == pytest.approx(stops[:-1])
        errors += start_errors(own, exact[row["ID"]])
        evenly = np.linspace(0, row["duration"], len(own) + 1)
        evenly = [(start, 0, phone) for start, (*_, phone) in zip(evenly, own, strict=False)]
        control += start_errors(evenly, exact[row["ID"]])
    assert len(errors) > 80
    assert np.median(np.abs(errors)) < 0.02 < 0.06 < np.median(np.abs(control))
    assert abs(np.median(errors)) < 0.006

    # Started again it keeps the split; other utterances before, or jobs, change nothing.
    before = (tmp_path / "dev-clean.ctm").stat().st_mtime_ns
    assert "is there and kept" in run(tmp_path, "--splits", "dev-clean").stdout
    assert (tmp_path / "dev-clean.ctm").stat().st_mtime_ns == before
    lexicon = align.load_lexicon(aligned[0] / "lexicon.txt")
    words = [(word, lexicon[word]) for word in listed[5]["wrd"].split()]
    alignment, problem = align.align(listed[5]["wav"], words)
    assert problem is None
    write_ctm({listed[5]["ID"]: alignment}, tmp_path / "again.ctm")
    assert (tmp_path / "again.ctm").read_text() in (tmp_path / "dev-clean.ctm").read_text()

    # Not with other pronunciations.
    options = align.parse(
        ["--data_folder", "L", "--lexicon", "other.txt", "--splits", "dev-clean"]
        + ["--output_folder", str(tmp_path)]
    )
    align.align_split(options, "dev-clean", lexicon)
    with pytest.raises(
        CorpusError, match=r"dev-clean\.ctm was made with other pronunciations than"
    ):
        align.align_split(options, "dev-clean", {**lexicon, "ONE": ["W", "AH", "N", "S"]})


@pytest.mark.long
def test_what_cannot_be_aligned_says_why(aligned, synthetic, tmp_path):
    soundfile.write(tmp_path / "short.flac", np.zeros(100), 16000)
    (tmp_path / "broken.flac").write_text("no audio")
    word = [("CAT", ["K", "AE", "T"])]
    for name in ("short", "broken"):
        alignment, problem = align.align(tmp_path / f"{name}.flac", word)
        assert alignment is None and problem
    assert align.align(synthetic[1][0]["wav"], [*word, ("ZZYZX", None)]) == (
        None,
        "no pronunciation of ZZYZX",
    )


@pytest.mark.long
def test_the_lexicon_comes_before_the_own_dictionary_and_must_have_its_phones(aligned, tmp_path):
    own = tmp_path / "lexicon.txt"
    own.write_text("CAT K AA1 T\n")
    lexicon = align.load_lexicon(own)
    assert lexicon["CAT"] == ["K", "AA", "T"] and lexicon["DOG"] == ["D", "AO", "G"]
    own.write_text("CAT k a t\n")
    with pytest.raises(CorpusError, match="CAT is k a t: PocketSphinx's phones are AA, AE"):
        align.load_lexicon(own)


def test_without_pocketsphinx_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = ["--data_folder=D", "--lexicon=L", f"--output_folder={tmp_path / 'A'}"]
    with pytest.raises(SystemExit, match="pip install pocketsphinx"):
        align.main([*options, "--splits", "dev-clean"])
    assert not (tmp_path / "A").exists()
