"""Hyperparameters files: the command line's overrides, and files that change another."""

import pytest

from recipes.common.training.hparams import (
    check_same_settings,
    load_hparams,
    resolve_hparams,
    save_hparams,
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1\nlr: 0.1\nfolder: !ref runs/<lr>\n")
    (tmp_path / "other.yaml").write_text("base: base.yaml\nlr: 0.2\n")
    return tmp_path


def test_a_base_takes_the_keys_of_the_file_and_those_of_the_command_line(files):
    assert load_hparams(files / "base.yaml") == {"seed": 1, "lr": 0.1, "folder": "runs/0.1"}
    assert load_hparams(files / "other.yaml") == {"seed": 1, "lr": 0.2, "folder": "runs/0.2"}
    found = load_hparams(files / "other.yaml", {"seed": 3, "lr": 0.4})
    assert found == {"seed": 3, "lr": 0.4, "folder": "runs/0.4"}


@pytest.mark.parametrize("name", ["base.yaml", "other.yaml"])
def test_an_unknown_option_is_named_together_with_those_that_there_are(files, name):
    with pytest.raises(ValueError, match="--sed .*folder, lr, seed"):
        load_hparams(files / name, {"sed": 3})


@pytest.fixture
def chain(tmp_path):
    """Return a file whose base lies in another folder, has a base itself and includes a third."""
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "part.yaml").write_text("size: 3\nlayer: !ref size <size>\n")
    (tmp_path / "first.yaml").write_text(
        "seed: 1\n"
        "counts: !new:collections.Counter\n    a: 1\n    b: 2\n"
        "part: !include:deep/part.yaml\n    size: 5\n"
        "made: !ref <part[layer]>, seed <seed>\n"
    )
    (tmp_path / "second.yaml").write_text("base: first.yaml\nseed: 2\n")
    text = "base: ../second.yaml\ncounts: !new:collections.Counter\n    b: 7\nnew: !ref <seed>\n"
    (deep / "third.yaml").write_text(text)
    return deep / "third.yaml"


def test_a_base_may_have_a_base_and_includes_stay_where_they_are(chain):
    found = load_hparams(chain)
    assert found["made"] == "size 5, seed 2" and found["new"] == 2
    assert load_hparams(chain, {"seed": 9})["made"] == "size 5, seed 9"


def test_a_setting_of_another_choice_is_refused(files):
    (files / "sizes.yaml").write_text("heat: 1\nshared: 2\n")
    (files / "way_a.yaml").write_text("made: !ref <heat>\n")
    (files / "way_b.yaml").write_text("made: !ref <size> + <shared>\nsize: 3\nheats: [heat]\n")
    (files / "way_c.yaml").write_text("made: 1\nshared: 5\n")
    path = files / "choice.yaml"
    path.write_text("base: [sizes.yaml, way_<way>.yaml]\nway: b\n")
    assert load_hparams(path, {"size": 4, "shared": 6})["made"] == 10
    assert load_hparams(path, {"way": "c", "shared": 6})["shared"] == 6  # a key beside the choice
    with pytest.raises(ValueError, match="heat is 2, which way b .* only size of .* is for a.$"):
        load_hparams(path, {"heat": 2})
    with pytest.raises(ValueError, match="size is 2, which way c .* has none of .* is for b.$"):
        load_hparams(path, {"way": "c", "size": 2})
    (files / "outer.yaml").write_text("base: choice.yaml\nsize: 7\n")
    assert load_hparams(files / "outer.yaml")["size"] == 7
    with pytest.raises(ValueError, match="size is 7, which way a does not use"):
        load_hparams(files / "outer.yaml", {"way": "a"})


def test_a_base_is_named_by_a_key(files):
    for lr in (1, 2):
        (files / f"method_{lr}.yaml").write_text(f"lr: {lr}\nonly_{lr}: True\n")
    text = "base: [base.yaml, method_<method>.yaml]\nmethod: '1'\n"
    (files / "chosen.yaml").write_text(text)
    (files / "outer.yaml").write_text("base: chosen.yaml\nmethod: '2'\n")
    expected = {"seed": 1, "lr": 1, "folder": "runs/1", "only_1": True, "method": "1"}
    assert load_hparams(files / "chosen.yaml") == expected
    changed = {"seed": 1, "lr": 2, "folder": "runs/2", "only_2": True, "method": "2"}
    assert load_hparams(files / "outer.yaml") == changed
    given = {"method": "2", "lr": 3}
    assert load_hparams(files / "chosen.yaml", given) == {**changed, "lr": 3, "folder": "runs/3"}
    save_hparams(files / "chosen.yaml", given, files)
    assert load_hparams(files / "hyperparams.yaml")["lr"] == 3
    with pytest.raises(ValueError, match="method is '3': expected one of 1, 2."):
        load_hparams(files / "chosen.yaml", {"method": "3"})
    with pytest.raises(ValueError, match="--only_1 of the command line"):
        load_hparams(files / "chosen.yaml", {"method": "2", "only_1": False})
    (files / "lacking.yaml").write_text("base: method_<way>.yaml\n")
    with pytest.raises(
        ValueError, match="lacking.yaml: base: .*: expected a key way that is a word"
    ):
        load_hparams(files / "lacking.yaml")


def test_of_several_bases_the_later_change_the_earlier(chain):
    (chain.parent / "more.yaml").write_text("seed: 8\ncounts: !new:collections.Counter\n    c: 9\n")
    (chain.parent / "own.yaml").write_text("base: [third.yaml, more.yaml]\nlast: !ref <new>\n")
    found = load_hparams(chain.parent / "own.yaml")
    assert found["made"] == "size 5, seed 8" and found["new"] == found["last"] == 8
    assert found["counts"] == {"a": 1, "b": 7, "c": 9}


def test_of_the_same_tag_single_keys_are_replaced_and_of_another_all(chain):
    assert load_hparams(chain)["counts"] == {"a": 1, "b": 7}
    chain.write_text("base: ../second.yaml\ncounts: !new:builtins.dict\n    b: 7\n")
    assert load_hparams(chain)["counts"] == {"b": 7}
    chain.write_text("base: ../second.yaml\npart: !include:part.yaml\n    size: 8\n")
    assert load_hparams(chain)["made"] == "size 8, seed 2"


def test_another_class_below_an_include_is_refused_as_it_would_not_be_built(chain):
    (chain.parent / "part.yaml").write_text("made: !new:collections.Counter\n    a: 1\n")
    chain.write_text("part: !include:part.yaml\n    made:\n        a: 3\n")
    assert load_hparams(chain)["part"] == {"made": {"a": 3}}
    chain.write_text("part: !include:part.yaml\n    made: !new:builtins.dict\n        a: 3\n")
    with pytest.raises(
        ValueError, match=r"third\.yaml: made is !new:builtins\.dict, where .*Counter"
    ):
        load_hparams(chain)


def test_a_wrong_reference_is_told_with_the_file(files):
    (files / "wrong.yaml").write_text("name: !ref <none>\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml: .*none"):
        load_hparams(files / "wrong.yaml")


def test_what_is_saved_stands_by_itself(chain, tmp_path):
    (tmp_path / "run").mkdir()
    save_hparams(chain, {"seed": 4}, tmp_path / "run")
    saved = tmp_path / "run" / "hyperparams.yaml"
    assert load_hparams(saved) == load_hparams(chain, {"seed": 4})
    assert "base" not in saved.read_text() and "!include" not in resolve_hparams(chain, {})


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_goes_on_with_the_settings_that_it_was_trained_with(finished, files):
    folder = files / "O"
    folder.mkdir()
    save_hparams(files / "base.yaml", {"lr": 0.3}, folder)
    if finished:
        (folder / "save" / "CKPT+1").mkdir(parents=True)
    check_same_settings(files / "base.yaml", {"lr": 0.3}, folder)
    check_same_settings(files / "base.yaml", {"lr": 0.3, "folder": "elsewhere"}, files / "new")
    if finished:
        with pytest.raises(ValueError, match="trained with lr 0.3; now it is 0.1. Use another"):
            check_same_settings(files / "base.yaml", {}, folder)
        (files / "longer.yaml").write_text("base: base.yaml\nnumber_of_epochs: 2\n")
        save_hparams(files / "longer.yaml", {"lr": 0.3}, folder)
        check_same_settings(files / "longer.yaml", {"lr": 0.3, "number_of_epochs": 9}, folder)
    else:
        check_same_settings(files / "base.yaml", {}, folder)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"augment": {"noise_prob": 0.0}}, "augment.noise_prob 0.5; now it is 0.0"),
        ({"noise_folder": "noise"}, "noise_folder None; now it is noise"),
        ({"opt": {"momentum": 0.8}}, "opt.momentum 0.9; now it is 0.8"),
        ({"opt": {"nesterov": True}}, "opt.nesterov not set; now it is True"),
        ({"number_of_epochs": 9, "data_folder": "there"}, None),
        ({}, None),
    ],
)
def test_settings_within_mappings_are_those_of_before_too(given, told, files):
    (files / "run.yaml").write_text(
        "number_of_epochs: 2\ndata_folder: here\nnoise_folder: null\n"
        "augment: !new:collections.Counter\n    noise_prob: 0.5\n"
        "counter: !new:collections.Counter\n    limit: !ref <number_of_epochs>\n"
        "opt: !name:torch.optim.SGD\n    momentum: 0.9\n"
    )
    (files / "run" / "save" / "CKPT").mkdir(parents=True)
    save_hparams(files / "run.yaml", {}, files / "run")
    if told is None:
        check_same_settings(files / "run.yaml", given, files / "run")
    else:
        with pytest.raises(ValueError, match=f"was trained with {told}"):
            check_same_settings(files / "run.yaml", given, files / "run")


def test_a_setting_within_a_mapping_that_is_no_longer_given_is_told(files):
    (files / "run.yaml").write_text("prepare_options: {}\nlr: 1\n")
    (files / "run" / "save" / "CKPT").mkdir(parents=True)
    save_hparams(files / "run.yaml", {"prepare_options": {"seed": 3}}, files / "run")
    with pytest.raises(ValueError, match="prepare_options.seed 3; now it is not set"):
        check_same_settings(files / "run.yaml", {}, files / "run")


def test_a_folder_of_another_stage_is_told_before_all_else(files):
    for stage, lr in (("frame", 1), ("joint", 2)):
        (files / f"{stage}.yaml").write_text(f"lr: {lr}\nstage: {stage}\nbeam_size: {lr}\n")
    run = files / "run"
    (run / "save" / "CKPT").mkdir(parents=True)
    save_hparams(files / "frame.yaml", {}, run)
    with pytest.raises(ValueError, match="trained with stage frame; now it is joint"):
        check_same_settings(files / "joint.yaml", {"lr": 3}, run)
    check_same_settings(files / "frame.yaml", {"beam_size": 3}, run)  # how the test is decoded


def test_of_several_settings_that_changed_the_one_that_is_given_is_named(files):
    for word, lr in (("a", 1), ("b", 2)):
        (files / f"way_{word}.yaml").write_text(f"lr: {lr}\n")
    (files / "run.yaml").write_text("base: way_<way>.yaml\nway: a\n")
    run = files / "run"
    (run / "save" / "CKPT").mkdir(parents=True)
    save_hparams(files / "run.yaml", {}, run)
    with pytest.raises(ValueError, match="was trained with way a; now it is b"):
        check_same_settings(files / "run.yaml", {"way": "b"}, run)
