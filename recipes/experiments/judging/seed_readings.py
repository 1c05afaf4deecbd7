"""What `judge.py` reads of each seed, in a file of its own, so that several machines can share."""

import json
import shutil
import sys

from pretrained.plain_files import read_json
from recipes.common.data.files import replace_text
from recipes.experiments import provenance, runner

FOLDER = "readings"
READ_ONCE = {"log_mel", "random_weights"}  # rows that the first of several seeds alone has


def keep(output_folder, seed, rows, given):
    """Write what was read of a seed, with what made it, to `readings/SEED.json`.

    Arguments
    ---------
    output_folder : Path
        Of `judge.py`: the seed's runs are in a folder of it.
    seed : int
    rows : dict
        By row, its readings, as `aims.judge` takes them.
    given : dict
        What the seed was read from: paths, and settings.
    """
    runs = output_folder / str(seed)
    records = {path.parent: read_json(path) for path in sorted(runs.rglob(provenance.RECORD))}
    made_by = provenance.record_of(given)
    for folder, record in records.items():
        run = folder.relative_to(runs).as_posix()
        made_by["settings"][f"settings of {run}"] = _digest_settings(record["settings"])
    code = sorted({file for record in records.values() for file in record["code"]})
    made_by["code"] = provenance.digests_of_code(code)
    lines = [f"  {json.dumps(name)}: {json.dumps(readings)}" for name, readings in rows.items()]
    text = f'{{"made_by": {json.dumps(made_by)},\n "rows": {{\n' + ",\n".join(lines) + "\n }}\n"
    path = path_of(output_folder / FOLDER, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def _digest_settings(settings):
    """Return a digest of a run's settings, but for those of its seed."""
    kept = json.dumps(provenance.without_seed(settings), sort_keys=True)
    return provenance.digest_text(kept)[:16]


def path_of(folder, seed):
    """Return the file of a seed."""
    return folder / f"{seed}.json"


def publish(output_folder, published):
    """Copy the files of a folder of `judge.py` to those that are published; return all of these.

    Arguments
    ---------
    output_folder : Path
    published : Path
        Holds a file for each seed; one of the same seed is replaced.

    Returns
    -------
    dict
        By seed, the readings of its rows.

    Raises
    ------
    SystemExit
        Where there is nothing to publish, a file cannot be read, or another seed that is published
        was read from other data or settings. Nothing is copied then.
    """
    new = _read_all(output_folder / FOLDER)
    if not new:
        sys.exit(f"{output_folder / FOLDER} has no readings of a seed: run judge.py first.")
    old = {seed: kept for seed, kept in _read_all(published).items() if seed not in new}
    _check_alike({**old, **new})
    published.mkdir(exist_ok=True)
    for seed in new:
        shutil.copyfile(path_of(output_folder / FOLDER, seed), path_of(published, seed))
    return {seed: kept["rows"] for seed, kept in sorted({**old, **new}.items())}


def _read_all(folder):
    """Return what the files of a folder hold, by seed."""
    paths = {seed: path_of(folder, seed) for seed in runner.SEEDS}
    return {seed: runner.read_kept(path) for seed, path in paths.items() if path.is_file()}


def _check_alike(kept):
    """Leave with a message where seeds differ in data or settings; tell where code differs."""
    (first, one), *others = kept.items()
    for seed, other in others:
        shared = one["made_by"]["settings"].keys() & other["made_by"]["settings"].keys()
        before, now = (
            {
                "settings": {name: x["made_by"]["settings"][name] for name in shared},
                "inputs": x["made_by"]["inputs"],
            }
            for x in (one, other)
        )
        if change := provenance.difference(before, now):
            sys.exit(
                f"Seeds {first} and {seed} cannot be judged together: {change} is not the same. "
                "Make one of them again, or remove its file."
            )
        if lacking := sorted((one["rows"].keys() ^ other["rows"].keys()) - READ_ONCE):
            sys.exit(
                f"Seeds {first} and {seed} cannot be judged together: one alone has {lacking[0]}. "
                "Make the other again, or remove its file."
            )
    for seed, one in kept.items():
        if provenance.digests_of_code(one["made_by"]["code"]) != one["made_by"]["code"]:
            print(f"Seed {seed} was read by other code than is here: judge.py makes it again.")
