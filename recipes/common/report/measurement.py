"""What is measured of one system, and its folder, from which a run goes on where it was stopped."""

import hashlib
import itertools
import json
import multiprocessing
import os
import re
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.logger import get_logger

from pretrained.audio_files import stamp
from recipes.common.annotations.triphones import triphones
from recipes.common.data.files import digest_code, replace_text
from recipes.common.data.seeding import derive_rng
from recipes.common.evaluation.abx import DISTANCES, MODES
from recipes.common.evaluation.attacks.pooling import RandomFeatures, pool_deviations
from recipes.common.evaluation.comparison import ATTACKED
from recipes.common.evaluation.information import measure_information
from recipes.common.evaluation.leakage import split_utterances
from recipes.common.evaluation.scoring import change_embeddings, rate_scorings
from recipes.common.report import measures
from recipes.common.report.phone_errors import read_phone_errors
from recipes.common.report.representations import encode, learn_layer_weights, replace_arrays
from recipes.common.report.unit_figures import read_units
from recipes.common.report.wording import is_error

logger = get_logger(__name__)

POINTS, MAP_SPEAKERS = 1000, 8
POOLED, WEIGHTED, PAIR = "frame, pooled", "frame, weighted sum", "z and u"
SPREAD = "frame, means and deviations"
# Of what a figure is made, beside data and weights: a change has models measured again.
OPTIONS = ("seed", "seeds", "frames_per_utterance", "max_items", "max_speakers", "hidden_dim")
OPTIONS += ("num_units", "probes", "information")
CODE = ("lobes", "recipes/common/evaluation", "recipes/common/report", "recipes/common/units")
WANTED = {  # high: the representation is for the factor; what is not listed is to be low
    ("frame", "phone"): "high",
    ("frame", "sentence"): "high",
    ("frame", "duration"): None,
    ("utterance", "speaker"): "high",
    ("utterance", "gender"): "high",
    ("utterance", "age"): "high",
    ("utterance", "session"): None,
    ("utterance", "channel"): None,
    ("utterance", "noise"): None,
}
EMPTY = {  # the fields of a figure that not every measure has
    **dict.fromkeys(("layer", "probe", "interval", "chance", "control", "selectivity")),
    **dict.fromkeys(("independent", "identical")),
    "unit": "",
}


def measure_once(system, speech, hparams):
    """Return what is measured of a system; from its folder where it was measured before.

    Arguments
    ---------
    system : System
    speech : Speech
    hparams : dict

    Returns
    -------
    dict
        `figures`, `maps`, `det`, `missing`: lists as report.json has them; `evidence`: of each
        figure, what paired tests compare; `seconds`: how long it took.
    """
    name = re.sub(r"[^\w.-]+", "_", system.name)
    folder = Path(hparams["output_folder"]) / "models" / name
    audio = [stamp(row["wav"]) for row in speech.read + speech.train]
    settings = [hparams[key] for key in OPTIONS]
    parts = (system.name, system.digest(), vars(speech), audio, digest_code(*CODE), settings)
    key = hashlib.sha256(_plain(parts).encode()).hexdigest()
    found = load_measures(folder, key)
    if found is None:
        if (folder / "measures.json").is_file():
            logger.info(f"{system.name}: model, data, settings or code changed: measured again")
        began = time.time()
        measurement = Measurement(system, speech, hparams, folder / "states")
        measurement.measure_all()
        save_measures(folder, key, measurement, time.time() - began)
        found = load_measures(folder, key)
        logger.info(f"{system.name}: measured in {found['seconds']} s, {folder}")
    return found


def _plain(value):
    """Return a text that is the same for the same values, arrays in full."""
    return json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))


def save_measures(folder, key, measurement, seconds):
    """Write measures.npz, then measures.json, which makes it complete.

    Arguments
    ---------
    folder : Path
    key : str
        Of what it was measured.
    measurement : Measurement
    seconds : float
    """
    arrays = {
        f"{place}.{name}": np.asarray(value)
        for place, evidence in enumerate(measurement.evidence)
        for name, value in evidence.items()
    }
    replace_arrays(folder / "measures.npz", np.savez_compressed, arrays)
    lists = {name: getattr(measurement, name) for name in ("figures", "maps", "det", "missing")}
    text = json.dumps({"key": key, "seconds": round(seconds, 1), **lists})
    replace_text(folder / "measures.json", text)


def load_measures(folder, key):
    """Return what `save_measures` wrote, or None where it is of something else or not there."""
    path = folder / "measures.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["key"] != key:
        return None
    found["evidence"] = [{} for _ in found["figures"]]
    with np.load(folder / "measures.npz") as arrays:
        for name in arrays.files:
            place, _, part = name.partition(".")
            found["evidence"][int(place)][part] = arrays[name]
    return found


class Measurement:
    """What is measured of one system.

    Arguments
    ---------
    system : System
    speech : Speech
    hparams : dict
        `seed`, `seeds` and the limits.
    folder : Path
        Of the states.
    """

    def __init__(self, system, speech, hparams, folder):
        count = hparams["frames_per_utterance"]
        self.system, self.speech, self.hparams = system, speech, hparams
        self.seed, self.seeds = hparams["seed"], hparams["seeds"]
        self.read = encode(system, speech.read, count, folder, whole=True)
        self.train = encode(system, speech.train, count, folder)
        self.figures, self.evidence, self.maps, self.det, self.missing = [], [], [], [], []
        self.speaker_of = {row["ID"]: row["spk_id"] for row in speech.read}
        self.ids = list(self.speaker_of)
        # Rivals are read where they differ from their model, in the last layer, and not drawn
        self.of_rival = system.kind == "rival"
        self.jobs = []  # what takes the result, a function, its arguments

    def measure_all(self):
        """Measure all that the system has a representation for."""
        vectors = {
            POOLED: (self.read.means, self.train.means),
            "utterance": (self.read.embeddings, self.train.embeddings),
        }
        for representation in [name for name, (own, _) in vectors.items() if own is None]:
            del vectors[representation]
            if not self.of_rival:
                self.miss(f"{self.system.name}: {representation}", "Its folder lacks the encoder.")
        if len(vectors) == 2 and self.hparams["information"]:
            self.inform()
        elif len(vectors) == 2:
            self.miss("mutual information of z and u", "It was left out (--information False).")
        self.leak({name: own for name, (own, _) in vectors.items()})
        if POOLED in vectors and self.speech.alignments:
            self.cluster()
        calls = [call for _, *call in self.jobs]
        results = side_by_side(calls, self.hparams["num_workers"])
        for (take, *_), result in zip(self.jobs, results, strict=True):
            take(result)
        if POOLED in vectors:
            self.discriminate()
        for representation, (own, train) in vectors.items():
            self.retrieve(representation, own, train)
        if not self.of_rival:
            self.draw()

    def miss(self, what, why):
        """Tell what was not measured, and why."""
        self.missing.append({"what": what, "why": why})

    def add(self, group, representation, factor, readings):
        """Add the figures of readings and their evidence."""
        layer = re.search(r"layer (\d+)$", representation)
        for reading in readings:
            figure = {
                **EMPTY,
                "model": self.system.name,
                "representation": representation,
                "group": group,
                "factor": factor,
                **reading,
                "layer": layer and int(layer[1]),
                "better": wanted(representation, factor, reading["measure"]),
            }
            self.evidence.append(figure.pop("evidence"))
            self.figures.append(figure)

    def leak(self, vectors):
        """Plan to probe frames of each layer, their weighted sum, and vectors of utterances."""
        inputs = list(self.frame_inputs()) if POOLED in vectors else []
        targets = self.speech.utterance_targets
        for representation, x in vectors.items():
            inputs += [(representation, factor, x, target) for factor, target in targets.items()]
        if POOLED in vectors and "speaker" in targets:
            spread = np.hstack([vectors[POOLED], pool_deviations(self.read.whole)])
            features = RandomFeatures(self.read.whole)(self.read.whole)
            for representation, x in ((SPREAD, spread), (ATTACKED, features)):
                inputs.append((representation, "speaker", x, targets["speaker"]))
        for representation, factor, x, target in inputs:
            own = x.reshape(-1, x.shape[-1])[target.items]
            take = partial(self.add, "leakage", representation, factor)
            self.jobs.append((take, read_target, own, target, self.hparams["probes"], self.seeds))

    def frame_inputs(self):
        """Yield representation, factor, vectors of all drawn frames and target."""
        frames, targets = self.read.frames, self.speech.frame_targets
        layers, count = frames.shape[2], frames.shape[1]
        for layer in self.layers():
            for factor, target in targets.items():
                yield f"frame, layer {layer}", factor, frames[:, :, layer], target
        if layers == 1 or self.of_rival:
            return
        speakers = [row["spk_id"] for row in self.speech.train]
        labels = {
            "phone": self.speech.train_phones,
            "speaker": np.array(speakers, object).repeat(count).reshape(-1, count),
        }
        for factor, target in targets.items():
            known = labels[factor] != np.array(None)
            own = labels[factor][known].astype(str)
            if len(set(own)) < 2:
                why = "Its layer weights are learned on training utterances, which lack alignments."
                self.miss(f"{WEIGHTED}: {factor}", why)
                continue
            weights = learn_layer_weights(self.train.frames[known], own, self.seed)
            yield WEIGHTED, factor, np.einsum("ufld,l->ufd", frames, weights), target

    def layers(self):
        """Return the numbers of the layers that are read."""
        layers = range(self.read.frames.shape[2])
        return layers[-1:] if self.of_rival else layers

    def cluster(self):
        """Plan to compare k-means units of each layer's frames with their phones."""
        known = self.speech.phones != np.array(None)
        speakers = np.array([row["spk_id"] for row in self.speech.read])
        labels = self.speech.phones[known].astype(str), speakers[known.nonzero()[0]]
        given = self.hparams["num_units"], self.seeds
        for layer in self.layers():
            train, read = (part.frames[:, :, layer] for part in (self.train, self.read))
            frames = train.reshape(-1, train.shape[2]), read[known]
            take = partial(self.add_units, f"frame, layer {layer}")
            self.jobs.append((take, read_units, *frames, *labels, *given))

    def add_units(self, representation, readings):
        """Add the figures of `read_units`, or why there are none."""
        if isinstance(readings, str):
            self.miss(f"units of {representation}", readings)
        else:
            self.add("retrieval", representation, "phone", readings)

    def discriminate(self):
        """Tell phones of the last layer's frames, by ABX or else by CTC."""
        layer = f"frame, layer {self.read.frames.shape[2] - 1}"
        frames = dict(zip(self.ids, self.read.whole, strict=True))
        if not self.speech.alignments:
            if texts := self.speech.texts:
                own = [frames[name] for name in texts], list(texts.values())
                speakers = [self.speaker_of[name] for name in texts]
                self.add("leakage", layer, "phone", [read_phone_errors(*own, speakers, self.seed)])
            return
        aligned = [n for n in self.ids if n in self.speech.alignments]
        items = triphones((n, self.speaker_of[n], self.speech.alignments[n]) for n in aligned)
        limits = {name: self.hparams[name] for name in ("max_items", "max_speakers")}
        for way in itertools.product(MODES, DISTANCES):
            try:
                reading = measures.read_abx(frames, items, *way, self.seed, **limits)
            except ValueError as error:
                self.miss(f"ABX {', '.join(way)}", str(error))
            else:
                self.add("retrieval", layer, "phone", [reading])

    def retrieve(self, representation, read, train):
        """Tell speakers and sentences by the cosine of one vector of each utterance."""
        speech = self.speech
        known = {row["ID"]: x for row, x in zip(speech.train, train, strict=True)}
        rates = rate_scorings(known, known, speech.train_trials)
        scoring = min(rates, key=rates.get)
        embeddings = change_embeddings(dict(zip(self.ids, read, strict=True)), known, scoring)
        reading, curve = measures.read_eer(embeddings, speech.trials, self.speaker_of, self.seed)
        self.add("retrieval", representation, "speaker", [{**reading, "scoring": scoring}])
        if not self.of_rival:
            self.det.append({"model": self.system.name, "representation": representation, **curve})
        if all("sentence" in row for row in speech.read):
            given = embeddings, speech.read, speech.told_apart, self.seed
            if reading := measures.read_same_sentence(*given):
                self.add("retrieval", representation, "sentence", [reading])

    def inform(self):
        """Plan to estimate the information of frames of the last layer and of embeddings."""
        rows, parts = self.speech.train, split_utterances(self.speech.train, self.seed)
        places = {row["ID"]: place for place, row in enumerate(rows)}
        given = {}
        for name, chosen in (("fit", parts["fit"] + parts["read"]), ("stop", parts["stop"])):
            given[name] = _pairs(self.train, rows, [places[row["ID"]] for row in chosen])
        given["read"] = _pairs(self.read, self.speech.read, list(range(len(self.ids))))
        arguments = (given, self.hparams["hidden_dim"], self.seeds)
        self.jobs.append((self.add_information, read_information, *arguments))

    def add_information(self, readings):
        """Add the figures of `read_information`, or why there are none."""
        if isinstance(readings, str):
            self.miss("mutual information of z and u", readings)
        else:
            self.add("information", PAIR, PAIR, readings)

    def draw(self):
        """Draw maps of frames, of their means and of embeddings, of a few speakers."""
        rows = self.speech.read
        names = sorted({row["spk_id"] for row in rows})
        chosen = set(derive_rng("map").permutation(names)[:MAP_SPEAKERS].tolist())
        own = [place for place, row in enumerate(rows) if row["spk_id"] in chosen]
        speakers = [rows[place]["spk_id"] for place in own]
        for representation, x in ((POOLED, self.read.means), ("utterance", self.read.embeddings)):
            if x is not None:
                self.add_map(representation, x[own], speakers, None)
        if self.read.frames is None:
            return
        frames, phones = self.read.frames[own, :, -1], self.speech.phones[own]
        known = phones != np.array(None) if self.speech.alignments else np.ones(phones.shape, bool)
        drawn = np.sort(derive_rng("points").permutation(np.flatnonzero(known))[:POINTS])
        self.add_map(
            "frame",
            frames.reshape(-1, frames.shape[2])[drawn],
            np.repeat(speakers, phones.shape[1])[drawn].tolist(),
            phones.ravel()[drawn].tolist() if self.speech.alignments else None,
        )

    def add_map(self, representation, x, speakers, phones):
        """Add a map of vectors, (points, dim), unless they are too few."""
        if len(x) < 4:
            return
        points = measures.draw_map(x, self.seed)
        entry = {"model": self.system.name, "representation": representation, "method": "t-SNE"}
        self.maps.append({**entry, "points": points, "phone": phones, "speaker": speakers})


def read_target(x, target, kinds, seeds):
    """Return the readings of a target by each kind of probe, from its items' vectors."""
    if target.y.ndim == 2:
        return measures.read_mix(x, target.y, target.groups, kinds, seeds)
    return measures.read_probes(x, target.y, target.groups, target.speakers, kinds, seeds)


def read_information(given, hidden_dim, seeds):
    """Return a reading for each estimate of `measure_information`, or why there is none."""
    try:
        found = measure_information(given, hidden_dim, seeds)
    except ValueError as error:
        return str(error)
    return [
        {
            "measure": measure,
            **{name: result[name] for name in ("unit", "value", "values", "seeds")},
            "interval": list(result["interval"]),
            "speakers": len(result["group_names"]),
            **{end: result[end]["value"] for end in ("independent", "identical")},
            "evidence": {name: result[name] for name in ("group_names", "group_scores")},
        }
        for measure, result in found.items()
    ]


def side_by_side(calls, workers):
    """Return what functions return, computed in so many processes.

    Arguments
    ---------
    calls : list of sequence
        A function of a module and its arguments.
    workers : int or None
        0 for none but this process; None for as many as there are cores.

    Returns
    -------
    list

    Example
    -------
    >>> side_by_side([(max, 1, 2), (min, 4, 3)], workers=0)
    [2, 3]
    """
    if workers == 0:
        return [function(*arguments) for function, *arguments in calls]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, _start_worker) as pool:
        futures = [pool.submit(function, *arguments) for function, *arguments in calls]
        return [future.result() for future in futures]


def _start_worker():
    """Compute in one thread, and end where the process that the results are for has ended."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def wanted(representation, factor, measure):
    """Return which of "high" and "low" a measure is to be, or None where it depends.

    Example
    -------
    >>> wanted("frame, layer 3", "phone", "phone error rate")
    'low'
    >>> wanted("utterance", "phone", "R2")
    'low'
    """
    told = WANTED.get((representation.split(",")[0], factor), "low")
    if told and is_error(measure):
        return {"high": "low", "low": "high"}[told]
    return told


def _pairs(encoded, rows, places):
    """Return utterances as `measure_information` takes them."""
    speakers = np.unique([rows[place]["spk_id"] for place in places], return_inverse=True)[1]
    return {
        "z": torch.from_numpy(encoded.frames[places, :, -1]),
        "u": torch.from_numpy(encoded.embeddings[places]),
        "speakers": speakers,
    }
