"""The verdict on joint training: what counts as less leakage and kept quality, and how it is said.

A paired difference is judged by its 95 % interval over speakers and seeds. The rules are fixed here
for all reports: see `verdict`.
"""

from typing import NamedTuple

from recipes.common.evaluation import information
from recipes.common.evaluation.comparison import ATTACKED, figure_key, figure_name, last_layer
from recipes.common.evaluation.grouping import group_by

# Kept: the error may have risen, the accuracy fallen, by two points of a hundred at most, wherever
# in its interval the difference is. Less than that cannot be told on a few dozen speakers, and more
# would be a price to name.
KEPT_MARGIN = 0.02
UNITS = {"R2": "", **information.UNITS}
LAST_LAYER = "frame, last layer"
PARTS = {  # what is claimed of the joint model against its control
    "speaker in frames": "frames tell less of the speaker",
    "content in embeddings": "utterance embeddings tell less of what is said",
    "content kept": "frames tell as well as before what is said",
    "speaker kept": "embeddings tell speakers apart as well as before",
}


class Rule(NamedTuple):
    """Which figures are judged, and how.

    Arguments
    ---------
    part : str
        Of `PARTS`, for which the figures speak.
    representation : str
        `LAST_LAYER` stands for the last layer of the frame encoder that was measured.
    factor : str
    measures : tuple of str
        How the names of the measures begin: what one corpus does not have, another has.
    sign : int
        1 where a higher value is what the claim is for, -1 where a lower one is.
    plain : str
        What the values of both models, for which it has places, say to anyone.
    """

    part: str
    representation: str
    factor: str
    measures: tuple
    sign: int
    plain: str

    def fits(self, entry, last_layer):
        """Return whether an entry of report.json is judged by this rule."""
        place = last_layer if self.representation == LAST_LAYER else self.representation
        same = (entry["representation"], entry["factor"]) == (place, self.factor)
        return same and entry["measure"].startswith(self.measures)

    def __str__(self):
        """Return what is judged."""
        measure = " or ".join(self.measures)
        factor = "" if self.factor == self.representation else f"{self.factor}, "
        return f"{self.part}: {self.representation}, {factor}{measure}"


RULES = (
    Rule(
        *("speaker in frames", ATTACKED, "speaker", ("balanced accuracy",), -1),
        "frames give the speaker away in {} of utterances ({} in the control)",
    ),
    Rule(
        *("content in embeddings", "utterance", "phone", ("balanced accuracy", "R2"), -1),
        "embeddings explain {} of which sounds an utterance has ({} in the control)",
    ),
    Rule(
        *("content in embeddings", "z and u", "z and u", ("InfoNCE",), -1),
        "frames and embeddings share at least {} of information ({} in the control)",
    ),
    Rule(
        *("content in embeddings", "z and u", "z and u", ("likelihood gain",), -1),
        "frames foretell {} of the embedding ({} in the control)",
    ),
    Rule(
        *("content kept", LAST_LAYER, "phone", ("balanced accuracy",), 1),
        "frames give their sound away in {} of cases ({} in the control)",
    ),
    Rule(
        *("content kept", LAST_LAYER, "phone", ("ABX error", "phone error rate"), -1),
        "sounds are confused in {} of cases ({} in the control)",
    ),
    Rule(
        *("speaker kept", "utterance", "speaker", ("EER",), -1),
        "two voices are confused by their embeddings in {} of comparisons ({} in the control)",
    ),
)


class Judgement(NamedTuple):
    """What a comparison of a joint model with its control says.

    Arguments
    ---------
    rule : Rule
    holds : bool or None
        None where neither model tells more than chance: there is nothing to lower.
    text : str
        The figures and what they show.
    plain : str
        What the figures say to anyone.
    """

    rule: Rule
    holds: bool | None
    text: str
    plain: str


class Trial(NamedTuple):
    """A joint model that was judged against its control.

    Arguments
    ---------
    joint, control : dict
        Of report.json's `models`.
    judgements : list of Judgement
    missing : list of Rule
        For which there was no comparison.
    """

    joint: dict
    control: dict
    judgements: list
    missing: list

    def count(self, part):
        """Return how many figures of a part hold, and how many were judged."""
        own = [j.holds for j in self.judgements if j.rule.part == part and j.holds is not None]
        return sum(own), len(own)

    def held(self):
        """Return the parts of which every figure that was judged holds, at least one."""
        return [part for part in PARTS if self.count(part)[0] == self.count(part)[1] > 0]


def verdict(models, figures, comparisons):
    """Return what the figures say of joint training, by rules that are fixed beforehand.

    Each model with beta above 0 is judged against a control with beta 0: one of the same training
    seed where there is one, and without norm where there is one. Four things are to hold, each by
    every figure that `RULES` names and that was measured, at least one: frames tell less of the
    speaker, embeddings tell less of the content (both: the 95 % interval of the paired difference
    lies on the right side of 0), frames tell as much of the content, and embeddings as much of the
    speaker (both: the interval ends at most `KEPT_MARGIN` on the wrong side). Where the intervals
    of both models hold chance, there is nothing to lower, and the figure is not judged. Nor is
    CLUB, which is no bound where the critic is poor. A beta is worth what the worst of its training
    seeds is; the best beta is told.

    Arguments
    ---------
    models, figures, comparisons : list of dict
        As report.json has them; `comparisons` as `compare` returns them, in either order.

    Returns
    -------
    dict
        `supports`: whether all four hold, None where there is no control; `sentences`: two;
        `reasons`: a line for each figure that was judged and for each rule that none was found for.

    Example
    -------
    >>> models = [{"name": "joint", "kind": "model", "beta": 0.007, "train_seed": 1}]
    >>> verdict(models, [], [])["supports"] is None
    True
    """
    joints = [m for m in models if m["kind"] == "model" and (m["beta"] or 0) > 0]
    controls = [m for m in models if m["kind"] == "model" and m["beta"] == 0]
    if not joints or not controls:
        return _without_control(joints)
    trials = []
    for joint in joints:
        same = [c for c in controls if c["train_seed"] == joint["train_seed"]]
        plain = [c for c in same or controls if c["frame_norm"] in (None, "none")]
        trials.append(_judge(joint, (plain or same or controls)[0], figures, comparisons))
    by_beta = group_by(trials, lambda trial: trial.joint["beta"])
    worst = [min(trials, key=lambda trial: len(trial.held())) for trials in by_beta.values()]
    shown = max(worst, key=lambda trial: len(trial.held()))
    supports = len(shown.held()) == len(PARTS)
    told = [shown, *(t for trials in by_beta.values() for t in trials if t is not shown)]
    return {
        "supports": supports,
        "sentences": [_conclude(shown, supports, by_beta), _quote(shown)],
        "reasons": [line for trial in told for line in _reasons(trial)] + _caveats(by_beta),
    }


def _without_control(joints):
    lacking = "trained alike with beta 0 to compare with" if joints else "trained with beta above 0"
    return {
        "supports": None,
        "sentences": [
            "Nothing can be concluded on joint training: among the models, there is none known to "
            f"be {lacking}.",
            "The figures tell what each representation holds, but not what made it so.",
        ],
        "reasons": [f"Not judged: {rule}." for rule in RULES],
    }


def _judge(joint, control, figures, comparisons):
    """Judge a joint model against its control by each rule."""
    entries = [oriented for e in comparisons if (oriented := _orient(e, joint, control))]
    known = {(f["model"], *figure_key(f)): f for f in figures}
    last, judgements, missing = last_layer(entries), [], []
    for rule in RULES:
        own = [e for e in entries if e["interval"] is not None and rule.fits(e, last)]
        judgements += [
            _judge_one(rule, e, [known.get((m["name"], *figure_key(e))) for m in (joint, control)])
            for e in own
        ]
        if not own:
            missing.append(rule)
    return Trial(joint, control, judgements, missing)


def _orient(entry, joint, control):
    """Return a comparison as the joint model less its control, None where it is of others."""
    names = joint["name"], control["name"]
    if (entry["first"], entry["second"]) == names:
        return entry
    if (entry["second"], entry["first"]) != names:
        return None
    ends = entry["interval"] and [-end for end in reversed(entry["interval"])]
    return {**entry, "difference": -entry["difference"], "interval": ends}


def _judge_one(rule, entry, figures):
    """Judge one difference; figures are those of the joint model and of the control, or None."""
    low, high = sorted(rule.sign * end for end in entry["interval"])  # above 0 is for the claim
    if rule.part.endswith("kept"):
        holds = low >= -KEPT_MARGIN
        word = "kept" if holds else "worse" if high < 0 else "not shown to be kept"
    elif all(_within_chance(figure, rule.sign) for figure in figures):
        holds, word = None, "not judged, as neither is above chance"
    else:
        holds = low > 0
        word = "less" if holds else "more" if high < 0 else "not shown to be less"
    unit = UNITS.get(entry["measure"], "%")
    text, plain = figure_name(entry), ""
    if None not in figures:
        values = [_number(figure["value"], unit) for figure in figures]
        text += f" {values[0]} against {values[1]}"
        plain = rule.plain.format(*(f"{value} {unit}".rstrip() for value in values))
    ends = " to ".join(f"{_number(end, unit):+}" for end in entry["interval"])
    text += f" {unit}".rstrip() + f" ({_number(entry['difference'], unit):+}, {ends})"
    text = f"{rule.part}: {text}, {entry['speakers']} speakers: {word}"
    return Judgement(rule, holds, text, plain)


def _within_chance(figure, sign):
    """Return whether the interval of a figure that is to fall or, by sign, to rise has chance."""
    if figure is None or figure["interval"] is None:
        return False
    chance = figure["independent"] if figure["chance"] is None else figure["chance"]
    low, high = figure["interval"]
    return chance is not None and (high >= chance if sign > 0 else low <= chance)


def _number(value, unit):
    """Return a value as it is shown: shares in per cent."""
    return round(100 * value, 1) if unit == "%" else round(value, 3)


def _conclude(trial, supports, by_beta):
    """Return the first sentence."""
    beta = f"beta {trial.joint['beta']:g}"
    if len(by_beta) > 1:
        beta += f", the best of {len(by_beta)} values"
    held, failed, unjudged = [], [], []
    for part, claim in PARTS.items():
        right, judged = trial.count(part)
        if not judged:
            unjudged.append(claim)
        elif right == judged:
            held.append(claim)
        else:
            failed.append(f"{claim} ({right} of {judged} figures)")
    if supports:
        return (
            f"Joint training does what it is for: against a control with beta 0 ({beta}), "
            f"{_listed(held)}."
        )
    mixed = any(not part.endswith("kept") for part in trial.held())
    start = "The result is mixed and does" if mixed else "The figures do"
    clauses = [_listed(held)]
    clauses += [f"it is not shown that {_listed(failed, 'or that')}"] if failed else []
    clauses += [f"it was not judged whether {_listed(unjudged, 'or')}"] if unjudged else []
    return (
        f"{start} not support that joint training disentangles: against a control with beta 0 "
        f"({beta}), {'; '.join(filter(None, clauses))}."
    )


def _quote(trial):
    """Return the second sentence: of each part the figure that speaks most against it."""
    quoted = []
    for part in PARTS:
        own = [j for j in trial.judgements if j.rule.part == part and j.holds is not None]
        quoted += [j.plain for j in sorted(own, key=lambda j: j.holds)[:1] if j.plain]
    if not quoted:
        return "No figure of both models could be compared."
    return f"In the joint model, {_listed(quoted)}."


def _listed(texts, last="and"):
    """Return texts as an enumeration."""
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def _reasons(trial):
    """Return a line for each figure that was judged, and for each rule that none was found for."""
    head = f"{trial.joint['name']} against {trial.control['name']}"
    lines = [f"{head}, {judgement.text}." for judgement in trial.judgements]
    return lines + [f"{head}, not judged for want of a comparison: {r}." for r in trial.missing]


def _caveats(by_beta):
    """Return what the intervals do not tell."""
    runs = min(len(trials) for trials in by_beta.values())
    lines = [
        f"Kept: the interval ends at most {100 * KEPT_MARGIN:g} points on the wrong side of 0.",
        "Intervals are over speakers and over the seeds of what was measured, not over training "
        f"runs, of which there is {runs} for each beta.",
    ]
    if len(by_beta) > 1:
        lines.append("The best beta was chosen on the figures that are told: expect less anew.")
    return lines
