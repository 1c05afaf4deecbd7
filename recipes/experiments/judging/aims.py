"""The aims of stage C, judged by intervals over speakers and seeds, and the table of all rows."""

import numpy as np

from recipes.common.evaluation import bootstrap
from recipes.experiments import method_readings, readmes
from recipes.experiments.runner import SEEDS

JOINT, NO_CRITIC, CONTROL = "joint", "joint_beta0", "joint_plain"
SPEAKER_SHARE, PHONE_SHARE, EER_MARGIN = 0.6, 1.02, 0.01
PAIRED = bootstrap.DIFFERENCE_PAIRED_USE
NOTHING, NO_RIVAL = "nothing to lower", "no rival keeps the phones"
COLUMNS = {  # of the table of rows: the reading, and how much wider its interval is for folds
    "phone errors, last layer": ("last_phones", 1.0),
    "phone errors, all layers": ("phones", 1.0),
    "speaker, strongest attacker": ("speaker", bootstrap.PROBE_PAIRED_USE),
    "EER, strongest attacker": ("speaker_eer", 1.0),
    "EER of u": ("eer", 1.0),
    "phones from u (R2)": ("content", bootstrap.PROBE_PAIRED_USE),
}


def judge(runs, rivals=()):
    """Say of each aim whether it is met.

    Met is an aim whose margin's 95 % interval, over speakers and seeds, lies at or below 0:

    - the strongest attacker names the speaker of frames at most 60 % as often as of the control's;
    - the phone error rate is at most 2 % higher (relative), of all layers and of the last alone;
    - the EER of u is at most a point higher;
    - u holds less of an utterance's phones by the stronger probe, unless the control's does no
      better than with shuffled labels: then there is nothing to lower;
    - the strongest attacker names the speaker no more often than in the frames of the best rival. A
      rival counts if its phone error, from the last layer, is at most 2 % (relative) above the
      joint model's; the best of these is the one of which the strongest attacker tells least. Both
      are decided on development speakers, by means over seeds.

    Arguments
    ---------
    runs : list of dict
        Of each seed: JOINT, CONTROL and rivals, each a dict of readings: `speaker`, `last_phones`
        and, but for rivals, `phones`, `eer` and `content`. A reading has `value`, `evidence`, for
        rivals `dev`, and of a probe `control`, with shuffled labels.
    rivals : sequence of str
        Which of the names in `runs` are rivals.

    Returns
    -------
    list of dict
        `aim`, `joint` and `other` (a value for each seed; the control's, or the rival's),
        `margin`, `interval`, `met`, and `note`: why `met` is None, where nothing could be judged.

    Example
    -------
    >>> trials = {"draws": [0.0] * 9, "speakers": 3}
    >>> def run(speaker):
    ...     probed = {"group_scores": [[speaker] * 9]}
    ...     reading = {"value": speaker, "dev": 0.3, "evidence": probed, "control": 0.0}
    ...     keys = "speaker", "phones", "last_phones", "content"
    ...     return {**dict.fromkeys(keys, reading), "eer": {"value": 0.0, "evidence": trials}}
    >>> runs = [{"joint": run(0.2), "joint_plain": run(0.5), "mean": run(0.3)}]
    >>> [line["met"] for line in judge(runs, ["mean"])]
    [True, True, True, True, True, True]
    """
    above = "at most 2 % above the control's"
    lines = [
        _aim(
            "speaker from z, strongest attacker: at most 60 % of the control's",
            runs,
            "speaker",
            SPEAKER_SHARE,
        ),
        _aim(f"phone errors, all layers: {above}", runs, "phones", PHONE_SHARE, 1.0),
        _aim(f"phone errors, last layer: {above}", runs, "last_phones", PHONE_SHARE, 1.0),
        _eer_aim("EER of u: at most a point above the control's", runs),
        _aim("phones from u (R2): lower than the control's", runs, "content", 1.0),
    ]
    content = [run[CONTROL]["content"] for run in runs]
    low, _ = bootstrap.bootstrap_groups([_scores(reading) for reading in content], SEEDS[0])
    if low <= np.mean([reading["control"] for reading in content]):
        lines[-1] |= {"met": None, "note": NOTHING}
    return lines + ([_rival_aim(runs, rivals)] if rivals else [])


def best_rival(runs, rivals):
    """Return the rival that tells least of the speaker with no more phone errors; see `judge`.

    Arguments
    ---------
    runs, rivals
        As `judge` takes them.

    Returns
    -------
    str or None
        None where the phone error of each is too high.
    """

    def on_development(name, key):
        return np.mean([run[name][key]["dev"] for run in runs])

    most = PHONE_SHARE * on_development(JOINT, "last_phones")
    counted = [name for name in rivals if on_development(name, "last_phones") <= most]
    return min(counted, key=lambda name: on_development(name, "speaker"), default=None)


def _rival_aim(runs, rivals):
    """Judge whether the joint model's frames tell less of the speaker than the best rival's."""
    aim, name = "speaker from z: less than of the best rival with no more phone errors", None
    name = best_rival(runs, rivals)
    if name is not None:
        return _aim(f"{aim} ({name})", runs, "speaker", 1.0, other=name)
    values = [run[JOINT]["speaker"]["value"] for run in runs]
    nothing = {"margin": None, "interval": None, "met": None, "note": NO_RIVAL}
    return {"aim": aim, "joint": values, "other": [], **nothing}


def _scores(reading):
    """Return a reading's scores of speakers, (speakers,)."""
    return np.asarray(reading["evidence"]["group_scores"][0])


def _aim(aim, runs, key, share, paired_use=PAIRED, other=CONTROL):
    """Judge whether a reading of the joint model is at most a share of the other's."""
    own, others = (np.array([_scores(run[name][key]) for run in runs]) for name in (JOINT, other))
    margins = own - share * others
    interval = bootstrap.bootstrap_groups(margins, SEEDS[0], paired_use)
    return _line(aim, runs, key, margins.mean(), interval, other)


def _eer_aim(aim, runs):
    """Judge whether the EER of the joint model's u is within a margin of the control's."""
    joint, control = ([run[name]["eer"] for run in runs] for name in (JOINT, CONTROL))
    difference, interval = method_readings.pool(joint, less=control)
    interval = [end - EER_MARGIN for end in interval]
    return _line(aim, runs, "eer", difference - EER_MARGIN, interval, CONTROL)


def _line(aim, runs, key, margin, interval, other):
    joint, others = ([run[name][key]["value"] for run in runs] for name in (JOINT, other))
    return {
        "aim": aim,
        "joint": joint,
        "other": others,
        "margin": float(margin),
        "interval": [float(end) for end in interval],
        "met": bool(interval[1] <= 0),
        "note": None,
    }


def tell_rows(runs, titles):
    """Return the rows of the table in which the joint model stands beside all else.

    Arguments
    ---------
    runs : list of dict
        As `judge` takes them; a row may be read with the first seed alone.
    titles : dict
        How the table calls each of the names, in its order.

    Returns
    -------
    list of list of str
        The title, a cell for each of COLUMNS in per cent, with its interval over speakers and
        seeds, "-" where it was not read, and which attackers were the strongest: by accuracy, and
        by EER where that was another.
    """
    rows = []
    for name, title in titles.items():
        read = [run[name] for run in runs if name in run]
        cells = []
        for key, paired_use in COLUMNS.values():
            own = [readings[key] for readings in read if key in readings]
            cells.append(method_readings.percent(own, paired_use) if own else "-")
        names, by_eer = (
            ", ".join(dict.fromkeys(readings[key]["attacker"] for readings in read))
            for key in ("speaker", "speaker_eer")
        )
        rows.append([title, *cells, names if names == by_eer else f"{names}; EER: {by_eer}"])
    return rows


def tell_points(runs, titles):
    """Return where the rows are between phone errors and the speaker, in per cent.

    Arguments
    ---------
    runs, titles
        As `tell_rows` takes them.

    Returns
    -------
    dict
        `points`: by title, of each seed [accuracy of the strongest attacker, phone errors of the
        last layer]; `limits`: what the aims allow of both, by the control's means over seeds.
    """
    keys = "speaker", "last_phones"
    points = {
        title: [[100 * run[name][key]["value"] for key in keys] for run in runs if name in run]
        for name, title in titles.items()
    }
    speaker, phones = np.mean(points[titles[CONTROL]], 0)
    return {"points": points, "limits": [SPEAKER_SHARE * speaker, PHONE_SHARE * phones]}


def make_table(lines, rows):
    """Return a verdict as Markdown, in per cent: the aims, then the table of rows.

    Arguments
    ---------
    lines : list of dict
        As `judge` returns them.
    rows : list of list of str
        As `tell_rows` returns them.

    Returns
    -------
    str
    """
    heads = ["features", *COLUMNS, "strongest attacker"]
    beside = readmes.markdown_table(heads, "l" + "r" * len(COLUMNS) + "l", rows)
    return f"{tell_aims(lines)}\n\n{beside}"


def tell_aims(lines):
    """Return how many aims are met, and a table of them, as Markdown, in per cent.

    Example
    -------
    >>> line = {"aim": "low", "joint": [0.2], "other": [0.5], "margin": -0.1, "note": None}
    >>> print(tell_aims([{**line, "interval": [-0.2, 0.1], "met": False}]))
    None of 1 aims is met.
    <BLANKLINE>
    | aim | joint | control, or the rival | above what is allowed | met |
    |---|--:|--:|--:|---|
    | low | 20.0 | 50.0 | -10.0 [-20.0, +10.0] | no |
    """
    judged = [line["met"] for line in lines if line["met"] is not None]
    count = sum(judged) or "None"
    verb = "is" if count in ("None", 1) else "are"
    heads = ["aim", "joint", "control, or the rival", "above what is allowed", "met"]
    table = readmes.markdown_table(heads, "lrrrl", [_cells(line) for line in lines])
    return f"{count} of {len(judged)} aims {verb} met.\n\n{table}"


def _cells(line):
    """Return the cells of an aim."""
    met = {True: "yes", False: "no", None: line["note"]}[line["met"]]
    values = [
        readmes.percent_and_range(line[name]) if line[name] else "-" for name in ("joint", "other")
    ]
    if line["margin"] is None:
        return [line["aim"], *values, "-", met]
    above = readmes.change_and_interval(line["margin"], line["interval"])
    return [line["aim"], *values, above, met]
