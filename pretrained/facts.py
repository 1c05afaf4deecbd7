"""What an exported head is told beside its modules: the facts of a transcriber and others.

A transcriber's are `features`, what its `ctc_head` stands on, and `tokenizer`, a configuration for
`pretrained.tokenizers.tokenizer_from_config`.

A verifier's are `features`, what its embeddings are made of, by a `speaker_head` or without one;
`scoring`, "plain", "centred" (needs `mean`) or "standardised" (needs `mean` and `deviation`, of
training data); `threshold`, the lowest cosine of a same speaker; and `threshold_set_on`, a text.

A classifier's are `features`, what its `classification_head` stands on, and `labels`, the names of
the classes in the order of the head's outputs.
"""

from reprlib import repr as short

from pretrained.file_states import ENCODERS, make_states
from pretrained.tokenizers import tokenizer_from_config

TRANSCRIBER, VERIFIER, CLASSIFIER = "transcriber", "verifier", "classifier"
HEADS = {
    TRANSCRIBER: "ctc_head",
    VERIFIER: "speaker_head",
    CLASSIFIER: "classification_head",
}
RECIPES = {
    TRANSCRIBER: "recipes/LibriSpeech/ASR or recipes/LibriSpeech/PR",
    VERIFIER: "recipes/VoxCeleb/SpeakerRec",
    CLASSIFIER: "recipes/Table or another recipe that classifies utterances",
}
ALL_FEATURES = ("utterance_encoder", "frame_encoder", "fbank", "fbank_statistics")
FEATURES = {
    TRANSCRIBER: ("frame_encoder", "fbank"),
    VERIFIER: ALL_FEATURES,
    CLASSIFIER: ALL_FEATURES,
}
EMBEDDINGS = ("utterance_encoder", "fbank_statistics")  # features that need no head
STATISTICS = {"plain": (), "centred": ("mean",), "standardised": ("mean", "deviation")}
MAX_TEXT = 1000  # characters
MAX_NUMBER = 1e30


def kind_of(facts):
    """Return the kind of folder with such facts: TRANSCRIBER, VERIFIER, CLASSIFIER; None: encoders.

    Example
    -------
    >>> kind_of({"features": "fbank", "tokenizer": {}}), kind_of(None)
    ('transcriber', None)
    """
    if facts is None:
        return None
    if "labels" in facts:
        return CLASSIFIER
    return TRANSCRIBER if "tokenizer" in facts else VERIFIER


def check_facts(facts, path):
    """Raise a ValueError unless facts are plain values of one of the kinds.

    Arguments
    ---------
    facts : object
        What config.json has under "facts".
    path : str or Path
        Of config.json, for the error.

    Raises
    ------
    ValueError
        Naming the file and the key.

    Example
    -------
    >>> check_facts({"features": "fbank", "tokenizer": None}, "config.json")
    Traceback (most recent call last):
    ...
    ValueError: config.json: facts.tokenizer: A tokenizer must be an object of values, not None.
    """
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: facts must be an object of values, not {short(facts)}.")
    CHECKS[kind_of(facts)](facts, path)


def check_modules(modules, facts, path):
    """Raise a ValueError unless modules are those that the facts speak of, and fit each other.

    Arguments
    ---------
    modules : dict
        Encoders and heads by name.
    facts : dict or None
        As `check_facts` lets them pass; None for a folder of encoders.
    path : str or Path
        Of config.json, for the error.

    Raises
    ------
    ValueError
        Naming the file, and both sizes where they differ.
    """
    kind = kind_of(facts)
    foreign = [name for name in HEADS.values() if name in modules and name != HEADS.get(kind)]
    if foreign:
        described = "missing" if kind is None else f"those of a {kind}"
        raise ValueError(
            f"{path}: {foreign[0]} is there, and the facts are {described}: expected those of "
            f"{', of '.join(f'a {kind} for a {head}' for kind, head in HEADS.items())}."
        )
    if kind is None:
        return
    features, head = facts["features"], modules.get(HEADS[kind])
    if features in ENCODERS and features not in modules:
        raise ValueError(f"{path}: facts.features is {features!r}, and there is no {features}.")
    if head is None and (kind != VERIFIER or features not in EMBEDDINGS):
        raise ValueError(f"{path}: a {kind} on {features!r} needs a {HEADS[kind]}: there is none.")
    states, sizes = make_states(features, modules), []
    if head is not None:
        of = f"facts.features ({features})"
        sizes = [("num_layers", states.num_layers, of), ("in_dim", states.dim, of)]
    if kind == TRANSCRIBER:
        symbols = len(tokenizer_from_config(facts["tokenizer"]))
        sizes.append(("num_symbols", symbols, "facts.tokenizer, with the blank,"))
    if kind == CLASSIFIER:
        sizes.append(("num_classes", len(facts["labels"]), "facts.labels"))
    for key, size, of in sizes:
        if head.config[key] != size:
            raise ValueError(
                f"{path}: {HEADS[kind]}.{key} is {head.config[key]}, and {of} has {size}: they "
                "were not trained together."
            )
    for key in STATISTICS.get(facts.get("scoring"), ()):
        size = states.dim if head is None else head.embedding_dim
        if len(facts[key]) != size:
            raise ValueError(
                f"{path}: facts.{key} has {len(facts[key])} numbers, and an embedding has {size}."
            )


def _check_transcriber(facts, path):
    _check_keys(facts, ("features", "tokenizer"), path)
    _check_choice(facts, "features", FEATURES[TRANSCRIBER], path)
    try:
        tokenizer_from_config(facts["tokenizer"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: facts.tokenizer: {error}") from error


def _check_classifier(facts, path):
    _check_keys(facts, ("features", "labels"), path)
    _check_choice(facts, "features", FEATURES[CLASSIFIER], path)
    labels = facts["labels"]
    fits = isinstance(labels, list) and len(labels) > 1 and all(map(is_line, labels))
    expected = f"a list of two or more different lines of 1 to {MAX_TEXT} characters"
    _expect(fits and len(set(labels)) == len(labels), expected, facts, "labels", path)


def _check_verifier(facts, path):
    _check_choice(facts, "scoring", STATISTICS, path)
    statistics = STATISTICS[facts["scoring"]]
    known = ("features", "scoring", *statistics, "threshold", "threshold_set_on")
    _check_keys(facts, known, path)
    _check_choice(facts, "features", FEATURES[VERIFIER], path)
    for key in statistics:
        values = facts[key]
        fits = isinstance(values, list) and values and all(map(_is_finite, values))
        _expect(fits, "a list of finite numbers", facts, key, path)
    fits = all(value > 0 for value in facts.get("deviation", ()))
    _expect(fits, "positive in each dimension", facts, "deviation", path)
    threshold, text = facts["threshold"], facts["threshold_set_on"]
    line = f"a line of 1 to {MAX_TEXT} characters"
    fits = _is_finite(threshold) and abs(threshold) <= 1 + 1e-6  # cosines are rounded
    _expect(fits, "a number between -1 and 1", facts, "threshold", path)
    _expect(is_line(text), line, facts, "threshold_set_on", path)


def _check_keys(facts, known, path):
    missing = [key for key in known if key not in facts]
    unknown = [key for key in facts if key not in known]
    if missing or unknown:
        found = f"{missing[0]!r} is missing" if missing else f"found {short(unknown[0])}"
        raise ValueError(f"{path}: facts must be {', '.join(known)}; {found}.")


def _check_choice(facts, key, choices, path):
    value = facts.get(key)
    fits = isinstance(value, str) and value in choices
    _expect(fits, f"one of {', '.join(choices)}", facts, key, path)


def _expect(fits, expected, facts, key, path):
    if not fits:
        raise ValueError(f"{path}: facts.{key} must be {expected}, not {short(facts.get(key))}.")


def is_line(text):
    """Return whether a value is a text that facts may hold: one line, neither empty nor endless.

    Example
    -------
    >>> is_line("zoom in"), is_line("zoom\\nin"), is_line("")
    (True, False, False)
    """
    return isinstance(text, str) and text.isprintable() and 0 < len(text) <= MAX_TEXT


def _is_finite(value):
    return type(value) in (int, float) and abs(value) < MAX_NUMBER


CHECKS = {
    TRANSCRIBER: _check_transcriber,
    VERIFIER: _check_verifier,
    CLASSIFIER: _check_classifier,
}
