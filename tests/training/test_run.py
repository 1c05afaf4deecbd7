"""The beginning of a recipe's run."""

from recipes.common.training.run import prepare


def test_a_corpus_is_prepared_with_its_own_options(tmp_path):
    calls = []
    hparams = {"train_splits": ["a"], "valid_splits": ["b"], "test_splits": ["c"]}
    hparams |= {"data_folder": "D", "manifest_folder": "M", "skip_prep": False, "skip_bad": True}
    hparams |= {"prepare": lambda **given: calls.append(given), "prepare_options": {"deep": 2}}
    prepare(hparams)
    expected = {"data_folder": "D", "save_folder": "M", "splits": ["a", "b", "c"]}
    assert calls == [{**expected, "skip_prep": False, "skip_bad": True, "deep": 2}]
