"""The record of encoded files: whole lines are read, others refused or forgotten."""

import json

import pytest

from pretrained.encoding.records import Record, digest_modules
from tests.pretrained.exports import frame_encoder, utterance_encoder

SETTINGS = {"model": "1", "--layers": [0, 2]}


@pytest.fixture
def made(tmp_path):
    """A folder with results of two files, one of them with a name that is hard to write."""
    with Record(tmp_path / "out", SETTINGS) as record:
        for name in ("a", 'é "\udcff'):
            source, place = tmp_path / f"{name}.wav", tmp_path / "out" / name
            source.write_bytes(b"audio")
            for suffix in (".x.npy", ".y.npy"):
                place.with_name(name + suffix).write_bytes(b"array")
            record.add(source, place, [".x.npy", ".y.npy"])
    return tmp_path


def held(folder, name):
    return Record(folder / "out", SETTINGS).holds(folder / f"{name}.wav", folder / "out" / name)


def test_what_was_added_is_held_by_its_name_and_audio(made):
    assert held(made, "a") and held(made, 'é "\udcff') and not held(made, "b")
    record = Record(made / "out", SETTINGS)
    assert not record.holds(made / "b.wav", made / "out" / "a")
    (made / "a.wav").write_bytes(b"other")
    assert not held(made, "a")
    (made / 'é "\udcff.wav').unlink()
    assert not held(made, 'é "\udcff')


def test_every_file_of_a_place_is_to_be_whole(made):
    (made / "out" / "a.y.npy").write_bytes(b"arra")
    assert not held(made, "a") and held(made, 'é "\udcff')
    (made / "out" / 'é "\udcff.x.npy').unlink()
    assert not held(made, 'é "\udcff')


@pytest.mark.parametrize("lost", [1, 30, 500])
def test_an_end_that_was_not_written_is_forgotten(lost, made):
    path = made / "out" / "encoded.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    assert not held(made, 'é "\udcff') and held(made, "a") == (lost < 500)
    with Record(made / "out", SETTINGS) as record:
        record.add(made / "a.wav", made / "out" / "a", [".x.npy"])
    lines = path.read_text().splitlines()
    assert all(map(json.loads, lines)) and held(made, "a")


def test_other_settings_are_named(made):
    changed = {**SETTINGS, "model": "2"}
    with pytest.raises(ValueError, match="with another model: give another --out, or delete"):
        Record(made / "out", changed)
    with pytest.raises(ValueError, match="with another --layers: "):
        Record(made / "out", {**SETTINGS, "--layers": [2, 0]})


@pytest.mark.parametrize("line", ["", "{", "[]", "1", "null", '{"place": "a"}'])
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_record_is_refused_by_its_line(line, number, made):
    path = made / "out" / "encoded.jsonl"
    lines = path.read_text().split("\n")
    lines[number - 1] = line
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"encoded.jsonl, line {number}: not a line of a record"):
        Record(made / "out", SETTINGS)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "encoded.jsonl").write_text('{"format": "other"}\n')
    with pytest.raises(ValueError, match="is not a record of encoded files"):
        Record(tmp_path, SETTINGS)


def test_a_digest_tells_weights_and_arguments():
    modules = {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}
    same = {"utterance_encoder": utterance_encoder(), "frame_encoder": frame_encoder()}
    assert digest_modules(modules) == digest_modules(same)
    found = {digest_modules(modules), digest_modules({"frame_encoder": frame_encoder()})}
    found.add(digest_modules(modules | {"frame_encoder": frame_encoder(seed=1)}))
    modules["frame_encoder"].config["dropout"] = 0.2
    assert len(found | {digest_modules(modules)}) == 4
