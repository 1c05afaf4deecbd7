"""The utterances of manifests as a SpeechBrain dataset whose rows stay in mapped files."""

import copy
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import DataPipeline

from recipes.common.data.files import CorpusError
from recipes.common.data.table import MADE_OF, ROOT, open_table

BLOCK = 2**14  # values that are made Python's at once


class Texts(Sequence):
    """A column of text, of which a str is made when it is asked for.

    Arguments
    ---------
    column : pyarrow.ChunkedArray
    rows : range or numpy.ndarray
        Which of its values, in order.
    root : str, optional
        The corpus's folder, which paths begin with in the place of `$data_root`.

    Example
    -------
    >>> texts = Texts(pa.chunked_array([["a", "b"], ["c"]]), range(1, 3))
    >>> list(texts), texts[0], texts[-1:]
    (['b', 'c'], 'b', ['c'])
    """

    def __init__(self, column, rows, root=None):
        self.column = column
        self.rows = rows
        self.root = root

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return self._values(self.rows[place])
        return self._complete(self.column[int(self.rows[place])].as_py())

    def __iter__(self):
        for start in range(0, len(self.rows), BLOCK):
            yield from self._values(self.rows[start : start + BLOCK])

    def _values(self, rows):
        # Arrow's own `take` joins all chunks of a column first.
        rows, ends = np.asarray(rows), np.cumsum([len(chunk) for chunk in self.column.chunks])
        numbers = np.searchsorted(ends, rows, side="right")
        values = np.empty(len(rows), object)
        for number in np.unique(numbers).tolist():
            own, chunk = np.flatnonzero(numbers == number), self.column.chunk(number)
            within = rows[own] - (ends[number] - len(chunk))
            found = chunk.take(pa.array(within)).to_pylist()
            values[own] = [self._complete(value) for value in found]
        return values.tolist()

    def _complete(self, value):
        return value if self.root is None else complete_path(value, self.root)


def complete_path(wav, data_root):
    """Return the path of a row's audio, which lies in the corpus unless `wav` is absolute.

    Example
    -------
    >>> complete_path("$data_root/1/a.wav", "corpus")
    'corpus/1/a.wav'
    """
    if wav.startswith(ROOT):
        return f"{data_root}/{wav[len(ROOT) :]}"
    return os.path.join(data_root, wav)


class Utterances(DynamicItemDataset):
    """The utterances of one or more manifests, in order.

    It is used as SpeechBrain's datasets are. In memory are the rows' numbers alone, so that ranks
    and workers share the manifest; there is no dict `data`: `column` takes its place.

    Arguments
    ---------
    manifests : list of Path
        CSV files. The utterances have the columns that all of them have, and `id` in the place of
        `ID`.
    data_root : str or Path
        The corpus's folder, in the place of `$data_root`.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,duration,wav,spk_id\\na,1.5,$data_root/a.wav,1\\n")
    >>> dataset = Utterances([path], "corpus")
    >>> dataset.set_output_keys(["id", "wav"])
    >>> dataset[0]
    {'id': 'a', 'wav': 'corpus/a.wav'}
    """

    def __init__(self, manifests, data_root):
        self.manifests = list(manifests)
        self.data_root = str(data_root)
        self._columns, self._made_of = _open_columns(self.manifests)
        self._rows = range(len(self._columns["id"]))
        self.pipeline = DataPipeline(list(self._columns))

    def __getstate__(self):
        """Leave the columns where they are: a worker that is spawned maps them anew."""
        return {name: value for name, value in vars(self).items() if name != "_columns"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._columns, made_of = _open_columns(self.manifests)
        if made_of != self._made_of:
            names = ", ".join(map(str, self.manifests))
            raise CorpusError(f"{names}: changed while a run reads it. Start the run again.")

    @property
    def rows(self):
        """Which rows of the manifests the utterances are: a range of all, or an array of int64."""
        # As a tensor they are sent to a worker that is spawned in memory that is shared.
        return self._rows if isinstance(self._rows, range) else self._rows.numpy()

    @property
    def data_ids(self):
        """The utterances' IDs, in order."""
        return self.column("id")

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, place):
        row = int(self.rows[place])
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        values["wav"] = complete_path(values["wav"], self.data_root)
        return self.pipeline.compute_outputs(values)

    def column(self, name):
        """Return a value of each utterance.

        Arguments
        ---------
        name : str
            A column of the manifests, or "id".

        Returns
        -------
        numpy.ndarray or Texts
            `duration` as float64; all else as `Texts`, the paths of `wav` complete.

        Raises
        ------
        CorpusError
            Where a manifest has no such column.
        """
        if name not in self._columns:
            names = ", ".join(map(str, self.manifests))
            raise CorpusError(f"{names}: no column {name}, or not in all of them.")
        if name != "duration":
            root = self.data_root if name == "wav" else None
            return Texts(self._columns[name], self.rows, root)
        durations = self._columns[name].to_numpy()
        return durations if isinstance(self._rows, range) else durations[self.rows]

    def add_dynamic_item(self, func, takes=None, provides=None):
        """Add an item, as SpeechBrain's datasets do; a column of its name would be taken for it.

        Raises
        ------
        CorpusError
            Where the manifests have such a column.
        """
        names = [provides] if isinstance(provides, str) else provides or []
        if common := [name for name in names if name in self._columns]:
            manifests = ", ".join(map(str, self.manifests))
            raise CorpusError(
                f"{manifests}: the column {common[0]} has the name of an item that is computed "
                "here. Rename it."
            )
        super().add_dynamic_item(func, takes, provides)

    def take(self, places):
        """Return the utterances at some places, in their order, without dynamic items.

        Arguments
        ---------
        places : numpy.ndarray
            Shape (utterances,), int64.

        Returns
        -------
        Utterances
        """
        taken = copy.copy(self)
        rows = places if isinstance(self._rows, range) else self.rows[places]
        taken._rows = torch.from_numpy(np.ascontiguousarray(rows, np.int64))
        taken.pipeline = DataPipeline(list(self._columns))
        return taken

    def filtered_sorted(
        self,
        key_min_value=None,
        key_max_value=None,
        key_test=None,
        sort_key=None,
        reverse=False,
        select_n=None,
    ):
        """Return some of the utterances, as SpeechBrain's datasets do; see `DynamicItemDataset`.

        Returns
        -------
        Utterances
            With a copy of the dynamic items and of the output keys.
        """
        places = np.arange(len(self))
        for key, least in (key_min_value or {}).items():
            places = places[self._values(key, places) >= least]
        for key, most in (key_max_value or {}).items():
            places = places[self._values(key, places) <= most]
        for key, test in (key_test or {}).items():
            passed = (bool(test(value)) for value in self._values(key, places))
            places = places[np.fromiter(passed, bool, len(places))]
        places = places[:select_n]
        if sort_key is not None:
            ranked = zip(self._values(sort_key, places), places.tolist(), strict=True)
            places = np.array([place for _, place in sorted(ranked, reverse=reverse)], np.int64)
        as_before = sort_key is None and len(places) == len(self)
        kept = copy.copy(self) if as_before else self.take(places)
        kept.pipeline = copy.deepcopy(self.pipeline)
        return kept

    def _values(self, key, places):
        """Return a column, or a dynamic item, at some places."""
        if key in self._columns:
            own = self if len(places) == len(self) else self.take(places)
            return own.column(key)
        with self.output_keys_as([key]):
            return np.array([self[place][key] for place in places])


def _open_columns(manifests):
    """Return the columns that all of some manifests have, and what each table was made of."""
    tables = [open_table(path) for path in manifests]
    names = [name for name in tables[0].schema.names if all(name in t.schema.names for t in tables)]
    if "id" in names:
        raise CorpusError(f"{manifests[0]}, line 1: a column cannot be named id: call it ID.")
    columns = {
        "id" if name == "ID" else name: pa.chunked_array(
            [chunk for table in tables for chunk in table[name].chunks]
        )
        for name in names
    }
    return columns, [table.schema.metadata[MADE_OF] for table in tables]


def load_dataset(path, data_root):
    """Return a manifest as a dataset, the audio's paths complete.

    Arguments
    ---------
    path : str or Path
        The CSV file.
    data_root : str or Path
        The corpus's folder, in the place of `$data_root`.

    Returns
    -------
    Utterances
    """
    return Utterances([path], data_root)
