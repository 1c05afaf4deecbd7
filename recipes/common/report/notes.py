"""How each measure of a report is computed, and what would have made it fail, in plain words."""

_CROSS = (
    "Each group of utterances is tested by a probe that was neither fitted nor chosen on it, by "
    "cross-validation in four parts"
)
_ABX = (
    "Of three stretches A, B and X of the same context, A and X are one phone and B another: the "
    "share of triples in which X is nearer to B, by dynamic time warping over frames of the last "
    "layer"
)
_CRITICS = (
    "Critics are fitted afresh on frozen representations of training speakers, stopped on others, "
    "and read on speakers that no encoder saw. Both representations are whitened alike"
)

_UNITS = (
    "k-means is fitted on training frames of a layer, and names the units of frames of speakers "
    "that no model was trained on; frames in silences do not count"
)

NOTES = {
    "balanced accuracy": {
        "how": f"The mean over classes of the share that a probe gets right. {_CROSS}: on other "
        "speakers, or on other utterances (other sessions, where these are told apart) where the "
        "factor is the speaker or the session. Selectivity is what is left after the same probe "
        "on shuffled labels is taken off.",
        "fails_if": "A control on shuffled labels above chance: test items are known to the probe. "
        "Random weights or FBANK as good as the model: training did not put the factor there.",
    },
    "R2": {
        "how": f"The variance of a value that a probe explains on speakers held out. {_CROSS}. For "
        "phones in an utterance: the mean over the three directions in which the shares of phones "
        "differ most between utterances. 0 is no better than the mean, and it can be below.",
        "fails_if": "A control on shuffled values above 0.",
    },
    "EER": {
        "how": "Cosines of pairs of utterances tell same speakers from others: the rate at which "
        "both errors are equal. Embeddings are taken as they are, centred or standardised, "
        "whichever does best on training speakers. The interval is over speakers.",
        "fails_if": "FBANK or random weights as low: what tells speakers is in the long-term "
        "spectrum already. Where sessions are not told apart, the channel counts as the speaker.",
    },
    "same sentence nearer": {
        "how": "For an utterance, one of the same sentence by another speaker and one of another "
        "sentence by the same speaker: how often the former is nearer, by the cosine. 50 % is "
        "chance; 100 % is content alone and 0 % the speaker alone. The interval is over speakers.",
        "fails_if": "Far from 50 % for random weights: then so much is in the signal already.",
    },
    "phone error rate": {
        "how": "Two linear maps are trained by CTC on frames of the last layer, and tested on "
        "speakers that they were neither fitted nor chosen on. The control is trained on "
        "transcripts that are dealt out at random.",
        "fails_if": "A control as good as the model.",
    },
    "InfoNCE": {
        "how": f"{_CRITICS}. A lower bound, in nats: how well a frame picks its own utterance's "
        "embedding among those of other speakers.",
        "fails_if": "Independent pairs above 0, or the same for identical pairs as for the model.",
    },
    "CLUB": {
        "how": f"{_CRITICS}. The likelihood of pairs over that of pairs of other utterances, in "
        "nats. An upper bound with a perfect critic only; with a poor one, no bound.",
        "fails_if": "Read as the mutual information, or without the critic's likelihood gain.",
    },
    "likelihood gain": {
        "how": f"{_CRITICS}. How much likelier a frame makes its utterance's embedding than a "
        "fitted marginal does, in bits for each dimension.",
        "fails_if": "Far below 0 on speakers held out: the critics learned speakers by heart.",
    },
    "PNMI": {
        "how": f"{_UNITS}. What share of the uncertainty about a frame's phone its unit takes "
        "away: I(phone; unit) / H(phone). The control is the same with phones dealt out at random, "
        "which few frames lift above 0.",
        "fails_if": "A control as high; FBANK or random weights as high.",
    },
    "phone purity": {
        "how": f"{_UNITS}. The share of frames that have the commonest phone of their unit; more "
        "units raise it.",
        "fails_if": "Phones dealt out at random as high, or FBANK or random weights.",
    },
    "cluster purity": {
        "how": f"{_UNITS}. The share of frames that have the commonest unit of their phone; more "
        "units lower it.",
        "fails_if": "Read alone: one unit for all frames has a cluster purity of 100 %.",
    },
    **{
        f"ABX error {mode}, {distance}": {
            "how": f"{_ABX} ({distance} distance). {whose} 50 % is chance.",
            "fails_if": "Random weights or FBANK as low: training did not bring phones apart.",
        }
        for distance in ("cosine", "angular")
        for mode, whose in (
            ("within", "One speaker speaks all three."),
            ("across", "X is spoken by another speaker than A and B."),
        )
    },
}
