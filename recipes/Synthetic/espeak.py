"""A small binding of eSpeak NG (the library that PyPI's `espeakng-loader` brings): text to speech.

One synthesiser per process: the library keeps its state in globals, from one text to the next. So
the same audio comes from the same texts in the same order, in a process of their own.
"""

import ctypes
import tempfile
from itertools import takewhile
from pathlib import Path

import espeakng_loader
import numpy as np

AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS = 0x0001
INITIALIZE_DONT_EXIT = 0x8000
EVENT_PHONEME = 7
CHARS_UTF8 = 1
SILENCE = "sil"


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),  # a union: of a phoneme its name
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """American English by eSpeak NG, with a voice of one's own.

    Arguments
    ---------
    traits : dict
        Lines of an eSpeak voice file, such as {"pitch": "90 130", "formant 1": "110 100 100"}; see
        eSpeak NG's docs/voices.md.
    seed : int
        Of the voice's noise; its lower 31 bits count.
    """

    def __init__(self, traits, seed):
        data = espeakng_loader.get_data_path()
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        options = INITIALIZE_PHONEME_EVENTS | INITIALIZE_DONT_EXIT
        self.rate = self.library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), options
        )
        if self.rate <= 0:
            raise RuntimeError(f"eSpeak NG did not start with the data in {data}.")
        # Without a seed it is the time of day.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(seed % 2**31))
        self.callback = _Callback(self._receive)  # kept, or it would be collected
        self.library.espeak_SetSynthCallback(self.callback)
        accent = (Path(data) / "lang" / "gmw" / "en-US").read_text(encoding="utf-8")
        lines = accent + "".join(f"\n{key} {value}" for key, value in traits.items())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "voice"
            path.write_text(lines + "\n", encoding="utf-8")
            if self.library.espeak_ng_SetVoiceByFile(str(path).encode()):
                raise RuntimeError(f"eSpeak NG refused the voice:\n{lines}")

    def say(self, text):
        """Return the audio of a text and its phones.

        Arguments
        ---------
        text : str
            A sentence.

        Returns
        -------
        audio : numpy.ndarray
            Shape (samples,), float64 in [-1, 1], at `self.rate`.
        phones : list of tuple
            (phone, first sample), without gaps: each lasts until the next, the first begins at 0.
            Stress is not marked; pauses are "sil".
        """
        self.chunks, self.events = [], []
        encoded = text.encode()
        if self.library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, CHARS_UTF8, None, None):
            raise RuntimeError(f"eSpeak NG failed at {text!r}.")
        audio = np.concatenate(self.chunks) / 2**15
        return audio, tidy_phones(self.events, len(audio))

    def _receive(self, samples, count, events):
        if samples and count:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in takewhile(lambda event: event.type, events):
            if event.type == EVENT_PHONEME:
                self.events.append((event.id.decode(), event.sample))
        return 0


def tidy_phones(events, samples):
    """Return phones without stress, gaps, empty ones and pauses that follow each other.

    Arguments
    ---------
    events : list of tuple
        (eSpeak's name of a phone, first sample), in order.
    samples : int
        Length of the audio.

    Returns
    -------
    list of tuple
        (phone, first sample); the first begins at 0.

    Example
    -------
    >>> tidy_phones([("'I", 9), ("t", 30), ("_:", 60), ("_", 70), ("_", 90)], 90)
    [('sil', 0), ('I', 9), ('t', 30), ('sil', 60)]
    """
    phones = [(SILENCE, 0)]
    ends = [start for _, start in events[1:]] + [samples]
    for (name, start), end in zip(events, ends, strict=True):
        name = SILENCE if name.startswith("_") else name.lstrip("',%=|")
        if start >= end or not name or name == phones[-1][0] == SILENCE:
            continue
        if start <= phones[-1][1]:
            phones.pop()
        phones.append((name, start))
    return phones
