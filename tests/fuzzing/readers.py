"""What reads each kind of file: a folder that holds, and a function that reads it."""

import itertools
import sys
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from speechbrain.utils.importutils import LazyModule

from lobes.frame_encoder import FrameEncoder
from lobes.heads import ClassificationHead, CTCHead
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import Classifier, Learn2Diss, SpeakerVerifier, Transcriber
from pretrained.audio import AudioError, check_audio, read_blocks, read_speech
from pretrained.decoding import _read_arpa_words
from pretrained.exported import save_model
from pretrained.tokenizers import SymbolTokenizer
from pretrained.toolkits.importing import import_weights
from pretrained.toolkits.layouts import to_huggingface
from pretrained.toolkits.names import export_state_dict
from recipes.AudioFolder.audio_folder_prepare import prepare_audio_folder
from recipes.common.annotations.alignments import read_alignments, write_ctm
from recipes.common.annotations.text import read_lexicon
from recipes.common.corpora.shards import pack
from recipes.common.data.manifest import validate_manifests, write_manifest
from recipes.common.data.table import read_manifest
from recipes.common.training.hparams import check_same_settings
from recipes.common.units.unit_array import (
    Columns,
    UnitArray,
    index_utterances,
    write_units,
)
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.speechocean762.speechocean762_prepare import prepare_speechocean762
from recipes.Table.table_prepare import prepare_table
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb, read_trials

# hypothesis looks into all modules that are imported, and SpeechBrain's lazy ones cannot be.
for _name in [name for name, module in sys.modules.items() if isinstance(module, LazyModule)]:
    del sys.modules[_name]

RATE = 16000
SIZES = {"conv_channels": 16, "d_model": 16, "num_layers": 1, "nhead": 2, "d_ffn": 16}
SIZES |= {"pos_conv_kernel": 4, "pos_conv_groups": 2}


class Target(NamedTuple):
    """A kind of input.

    Arguments
    ---------
    make : callable
        (folder): writes an input that holds.
    files : list of str
        Those that are broken, as patterns.
    read : callable
        (folder): what is read from it, which can be compared.
    sealed : bool
        Whatever is changed is noticed: it is refused, or reads as before.
    """

    make: object
    files: list
    read: object
    sealed: bool = False


def noise(seed, samples=RATE):
    return 0.1 * np.random.default_rng(seed).normal(size=samples).clip(-3, 3).astype(np.float32)


def write_audio(path, seed=0, samples=8000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seed, samples), RATE, **options)


def frame_encoder(frontend="fbank"):
    torch.manual_seed(0)
    return FrameEncoder(frontend, **SIZES)


def encoders():
    torch.manual_seed(1)
    utterance = UtteranceEncoder("tdnn", channels=8, embedding_dim=6, attention_channels=4)
    return {"frame_encoder": frame_encoder(), "utterance_encoder": utterance}


def make_manifest(folder):
    rows = []
    for number in range(4):
        write_audio(folder / "corpus" / f"{number}.wav", number)
        row = {"ID": f"u{number}", "duration": 0.5, "wav": f"$data_root/{number}.wav"}
        rows.append({**row, "spk_id": f"s{number // 2}", "wrd": "ONE TWO"})
    write_manifest(rows[:2], folder / "train.csv")
    write_manifest(rows[2:], folder / "test.csv")


def read_manifests(folder):
    named = {name: folder / f"{name}.csv" for name in ("train", "test")}
    validate_manifests(named, folder / "corpus", {name: [name] for name in named})
    return [read_manifest(path) for path in named.values()]


def make_shards(folder):
    make_manifest(folder)
    (folder / "manifests").mkdir()
    for path in folder.glob("*.csv"):
        path.rename(folder / "manifests" / path.name)
    pack(folder / "corpus", folder / "manifests", folder / "shards")


def read_shards(folder):
    """Return the samples of each utterance; check and reading are to agree."""
    rows = [row for name in ("train", "test")
            for row in read_manifest(folder / "shards" / "manifest" / f"{name}.csv")]  # fmt: skip
    samples = {}
    for row in rows:
        path = str(folder / "shards" / row["wav"].removeprefix("$data_root/"))
        _, problem = check_audio(path)
        if problem is not None:
            raise AudioError(path, problem)
        samples[row["ID"]] = read_speech(path).tolist()
    return samples


def make_trials(folder):
    wavs = [f"id{s}/v{v}/00001.wav" for s in (1, 2) for v in (1, 2)]
    pairs = itertools.combinations(wavs, 2)
    lines = [f"{int(a[:3] == b[:3])} {a} {b}\n" for a, b in pairs]
    (folder / "veri.txt").write_text("".join(lines))


def make_librispeech(folder):
    for split, reader in (("train-clean-100", 1), ("dev-clean", 2)):
        chapter = folder / "L" / split / str(reader) / "7"
        lines = []
        for number in range(2):
            name = f"{reader}-7-{number:04d}"
            write_audio(chapter / f"{name}.flac", number)
            lines.append(f"{name} ONE TWO\n")
        (chapter / f"{reader}-7.trans.txt").write_text("".join(lines))


def prepared(prepare, corpus, splits, **options):
    """Return a function that has manifests written, and reads them."""

    def read(folder):
        out = folder / "manifests"
        try:
            prepare(folder / corpus, out, splits, num_workers=1, **options)
        except Exception:
            assert not list(out.glob("*.csv")), "a refused corpus left manifests"
            raise
        return [read_manifest(out / f"{split}.csv") for split in splits]

    return read


def make_voxceleb(folder):
    root, parts = folder / "V", itertools.cycle((1, 2, 3))
    lines = []
    for speaker, video in itertools.product((1, 2), range(3)):
        place = f"id{speaker}/v{video}/00001.wav"
        write_audio(root / "wav" / place, 10 * speaker + video)
        lines.append(f"{next(parts)} {place}\n")
    (root / "meta").mkdir()
    (root / "meta" / "iden_split.txt").write_text("".join(lines))


def make_speechocean(folder):
    root = folder / "S"
    tables = {"wav.scp": [], "utt2spk": [], "text": [], "text-phone": []}
    for number in range(8):
        name = f"{number:04d}"
        write_audio(root / "WAVE" / f"{name}.wav", number)
        tables["wav.scp"].append(f"{name}\tWAVE/{name}.wav\n")
        tables["utt2spk"].append(f"{name}\ts{number // 2}\n")
        tables["text"].append(f"{name}\tONE TWO\n")
        tables["text-phone"] += [f"{name}.0\tW AH0 N\n", f"{name}.1\tT UW1\n"]
    for place in ("train", "resource"):
        (root / place).mkdir()
    for name, lines in tables.items():
        place = "resource" if name == "text-phone" else "train"
        (root / place / name).write_text("".join(lines))


def make_folder_of_audio(folder):
    for number in range(10):
        write_audio(folder / "A" / f"s{number}" / "u.wav", number)


def make_table(folder):
    lines = ["wav,label,spk_id,split\n"]
    for number in range(9):
        write_audio(folder / "T" / f"{number}.wav", number)
        split = ("train", "valid", "test")[number % 3]
        lines.append(f"{number}.wav,{('no', 'yes')[number % 2]},s{number % 3},{split}\n")
    (folder / "T" / "mine.csv").write_text("".join(lines))


def read_own_table(folder):
    table = folder / "T" / "mine.csv"
    return prepared(prepare_table, "T", ["train", "valid", "test"], table=table)(folder)


def make_lexicon(folder):
    (folder / "lexicon.txt").write_text("ONE W AH1 N\nTWO  T UW1\nTWO(2) T AH0\n# a note\n")


PHONES = {"a": [(0, 0.1, "sil"), (0.1, 0.3, "AH0"), (0.3, 0.5, "T_E")]}


def make_ctm(folder):
    (folder / "alignments").mkdir()
    write_ctm({**PHONES, "b": PHONES["a"]}, folder / "alignments" / "all.ctm")


def make_textgrid(folder):
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "0.5", "<exists>"]
    lines += ["1", '"IntervalTier"', '"phones"', "0", "0.5", "3"]
    lines += [part for *times, phone in PHONES["a"] for part in (*map(str, times), f'"{phone}"')]
    (folder / "alignments").mkdir()
    for name in "ab":
        (folder / "alignments" / f"{name}.TextGrid").write_text("\n".join(lines) + "\n")


def read_both(folder):
    rows = [{"ID": name, "duration": 0.5} for name in "ab"]
    return read_alignments(folder / "alignments", rows)


def unit_utterances(folder):
    wavs = [str(folder / f"{n}.wav") for n in range(3)]
    return Columns([f"u{n}" for n in range(3)], wavs, np.full(3, 0.5))


def make_unit_folder(folder):
    for number in range(3):
        write_audio(folder / f"{number}.wav", number)
    (folder / "units").mkdir()
    index, parts = index_utterances(unit_utterances(folder)), [(range(3), np.arange(72) % 7)]
    write_units(folder / "units", index, parts, {"num_units": 7})


def read_units(folder):
    utterances = unit_utterances(folder)
    units = UnitArray(folder / "units", utterances, 7)
    return [units[name].tolist() for name in utterances.ids]


def make_model(folder):
    save_model(folder / "model", encoders())


def make_transcriber(folder):
    tokenizer = SymbolTokenizer(["A", "B", "|"], "characters")
    head = CTCHead(2, 16, 4, 8, 0)
    facts = {"features": "frame_encoder", "tokenizer": tokenizer.to_config()}
    save_model(folder / "model", {"frame_encoder": frame_encoder(), "ctc_head": head}, facts)


def make_verifier(folder):
    facts = {"features": "utterance_encoder", "scoring": "centred", "threshold": 0.5}
    facts |= {"threshold_set_on": "trials", "mean": [0.0] * 6}
    own = {"utterance_encoder": encoders()["utterance_encoder"]}
    save_model(folder / "model", own, facts)


def make_classifier(folder):
    facts = {"features": "frame_encoder", "labels": ["no", "yes"]}
    modules = {"frame_encoder": frame_encoder(), "classification_head": ClassificationHead(2, 16)}
    save_model(folder / "model", modules, facts)


def encoded(interface, call):
    """Return a function that loads a folder and gives what it makes of noise."""

    def read(folder):
        path = folder.parent / "speech.wav"
        if not path.is_file():
            write_audio(path, 0)
        return call(interface.from_pretrained(folder / "model"), path)

    return read


def make_weights(folder):
    to_huggingface({"frame_encoder": frame_encoder("waveform")}, folder / "weights")


def read_weights(folder):
    encoder = frame_encoder("waveform")
    import_weights(encoder, folder / "weights")
    return [float(p.sum()) for p in encoder.parameters()]


def make_checkpoint(folder):
    torch.save(export_state_dict(frame_encoder("waveform")), folder / "weights.pt")


def read_checkpoint(folder):
    import_weights(frame_encoder("waveform"), folder / "weights.pt")


def make_arpa(folder):
    text = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1.0\t<s>\n-1.0\t</s>\n-1.0\tONE\n\n\\end\\\n"
    (folder / "lm.arpa").write_text(text)


def make_run(folder):
    (folder / "run" / "save" / "CKPT+1").mkdir(parents=True)
    text = "seed: 1\nlr: 0.1\nsplits: [a, b]\nname: word\n"
    (folder / "run" / "hyperparams.yaml").write_text(text)
    (folder / "tiny.yaml").write_text(text)


CONTAINERS = [("wav", {}), ("flac", {}), ("ogg", {}), ("mp3", {}), ("aiff", {}), ("au", {})]
CONTAINERS += [("w64", {}), ("caf", {}), ("gsm.wav", {"format": "WAV", "subtype": "GSM610"})]
CONTAINERS += [("ulaw.wav", {"format": "WAV", "subtype": "ULAW"})]
CONTAINERS += [("float.wav", {"format": "WAV", "subtype": "FLOAT"})]
CONTAINERS += [("sph", {"format": "NIST"}), ("opus", {"format": "OGG", "subtype": "OPUS"})]


def make_containers(folder):
    for suffix, options in CONTAINERS:
        write_audio(folder / f"a.{suffix}", samples=4000, **options)


def read_containers(folder):
    """Return the duration of each file; check, blocks and the whole are to say the same of it."""
    told = []
    for path in sorted(folder.glob("a.*")):
        duration, problem = check_audio(path, any_rate=True)
        try:
            blocks = sum(map(len, read_blocks(path)))
        except AudioError as error:
            assert problem == error.problem, f"{path}: {problem} in the check, {error} in blocks"
            raise
        assert problem is None, f"the check refuses what is read: {problem}"
        whole = read_speech(path)
        assert round(duration * RATE) == blocks == len(whole), (duration, blocks, len(whole))
        assert torch.isfinite(whole).all()
        told.append(duration)
    return told


TARGETS = {
    "manifest": Target(make_manifest, ["*.csv"], read_manifests),
    "shards": Target(make_shards, ["shards/*.tar", "shards/manifest/*.csv"], read_shards),
    "trials": Target(make_trials, ["veri.txt"], lambda f: read_trials(f / "veri.txt")),
    "transcripts": Target(
        make_librispeech,
        ["L/*/*/*/*.trans.txt"],
        prepared(prepare_librispeech, "L", ["train-clean-100", "dev-clean"]),
    ),
    "identification": Target(
        make_voxceleb,
        ["V/meta/*.txt"],
        prepared(prepare_voxceleb, "V", ["iden_train", "iden_valid", "iden_test"]),
    ),
    "kaldi tables": Target(
        make_speechocean,
        ["S/train/*", "S/resource/*"],
        prepared(prepare_speechocean762, "S", ["train", "valid", "test"]),
    ),
    "audio of a corpus": Target(
        make_folder_of_audio,
        ["A/*/*.wav"],
        prepared(prepare_audio_folder, "A", ["train", "valid", "test"]),
    ),
    "table": Target(make_table, ["T/*.csv"], read_own_table),
    "containers": Target(make_containers, ["a.*"], read_containers),
    "lexicon": Target(make_lexicon, ["lexicon.txt"], lambda f: read_lexicon(f / "lexicon.txt")),
    "ctm": Target(make_ctm, ["alignments/*"], read_both),
    "textgrid": Target(make_textgrid, ["alignments/*"], read_both),
    "units": Target(make_unit_folder, ["units/*"], read_units, sealed=True),
    "model": Target(
        make_model,
        ["model/config.json", "model/*.safetensors"],
        encoded(Learn2Diss, lambda m, p: m.encode_file(p).frames.sum().item()),
        sealed=True,
    ),
    "transcriber": Target(
        make_transcriber,
        ["model/config.json", "model/*.safetensors"],
        encoded(Transcriber, lambda m, p: m.transcribe_file(p)),
    ),
    "verifier": Target(
        make_verifier,
        ["model/config.json", "model/*.safetensors"],
        encoded(SpeakerVerifier, lambda m, p: list(m.verify_files(p, p))),
    ),
    "classifier": Target(
        make_classifier,
        ["model/config.json", "model/*.safetensors"],
        encoded(Classifier, lambda m, p: m.classify_file(p).label),
    ),
    "weights": Target(make_weights, ["weights/*.json", "weights/*.safetensors"], read_weights),
    "checkpoint": Target(make_checkpoint, ["weights.pt"], read_checkpoint),
    "language model": Target(
        make_arpa, ["lm.arpa"], lambda f: sorted(_read_arpa_words(f / "lm.arpa"))
    ),
    "settings of a run": Target(
        make_run,
        ["run/hyperparams.yaml", "tiny.yaml"],
        lambda f: check_same_settings(f / "tiny.yaml", {}, f / "run"),
    ),
}
