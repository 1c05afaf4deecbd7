"""Audio files of any rate, container and length as 16 kHz mono, and what makes one unusable.

Inference reads blocks (`read_blocks`) and the recipes whole files (`read_speech`), which they have
checked before (`check_audio`). A file is refused by the first if and only if it is by the check.
"""

import io
import math
import os
import re
import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import soundfile
import torch

from lobes.signal import RECEPTIVE_FIELD, SAMPLE_RATE
from pretrained.audio_files import AudioError, open_audio, split_piece

BLOCK_SECONDS = 10
MOST_OVERSHOOT = 0.5  # s by which a piece may end after its recording, as in Kaldi
ZERO_CROSSINGS = 10  # of the resampling filter, on either side
RATES = (1000, 768000)  # Hz; the filter's length grows with the rate
MP3_FRAME = 1152  # samples
MOST_UNREAD = 1.0  # s of an MP3 behind its end by the header: tags are shorter
# What soundfile raises: a TypeError of formats without header, a UnicodeError of a path.
UNREADABLE = (soundfile.SoundFileError, TypeError, UnicodeError, MemoryError)
UNKNOWN_BYTES = 0x7FFFF000  # what a WAV header that was written to a pipe says, or more
UNKNOWN_FRAMES = 2**62  # libsndfile gives more where a header tells none, and cannot read the end
OGG_PAGE = 65307  # bytes, at most
# Of libsndfile's log: what a header announces beside what is there, and what it says of it.
ANNOUNCED = re.compile(r"^ *([\w ]*?) *:? *(\d+) \(?should be (\d+)", re.M)
FRAMES = re.compile(r"(?:Frames +|Cols) : (\d+)")
CUT = re.compile(
    r"[Ff]ile seems to be truncated|Seems to be a truncated file|Junk after the last page"
)


def read_speech(path):
    """Read an audio file as 16 kHz mono: channels are averaged, other rates resampled.

    The samples depend on the file alone, neither on the number of threads nor on the worker.

    Arguments
    ---------
    path : str or Path
        Of a format that soundfile reads: WAV, FLAC, OGG, Opus, MP3, AIFF and others. Or a member of
        a tar shard, `SHARD.tar:OFFSET:SIZE`, or a piece of a recording, `PATH#t=START,STOP` (s), of
        which nothing else is decoded.

    Returns
    -------
    torch.Tensor
        Shape (samples,), float32; `resampled_length` of the file's own samples. A piece is
        resampled as if there were silence around it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, np.zeros((44100, 2)), 44100)
    >>> read_speech(path).shape
    torch.Size([16000])
    """
    with soundfile.SoundFile(open_audio(path)) as file:
        rate, left, parts = file.samplerate, _seek_piece(file, path), []
        length = min(left, file.frames)
        # Of an MP3 the length is an estimate, and GSM 6.10 is not read without one.
        while len(part := file.read(length, dtype="float32", always_2d=True)):
            parts.append(part.mean(axis=1))
            left -= len(part)
            length = min(left, BLOCK_SECONDS * rate)
    audio = np.concatenate(parts or [np.empty(0, np.float32)])
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # takes longer to import than most files to read

        audio = resample_poly(audio, *_ratio(rate))
    return torch.from_numpy(audio)


def resampled_length(samples, rate):
    """Return how many samples at 16 kHz are made of samples at another rate.

    Example
    -------
    >>> resampled_length(44101, 44100)
    16001
    """
    return -(-samples * SAMPLE_RATE // rate)


def check_audio(path, any_rate=False):
    """Decode a file and say what is wrong with it.

    Arguments
    ---------
    path : str or Path
        An audio file, a member of a tar shard, or a piece of a recording.
    any_rate : bool
        Let rates other than 16 kHz and several channels pass.

    Returns
    -------
    duration : float
        Seconds of what `read_speech` returns; 0 where the file cannot be used.
    problem : str or None
        What is wrong: another rate than 16 kHz or more than one channel, or what `read_blocks`
        refuses.

    Example
    -------
    >>> path = getfixture("tmp_path") / "constant.wav"
    >>> soundfile.write(path, np.full(16000, 0.5), 16000)
    >>> check_audio(path)
    (0.0, 'is silent: every sample is zero, all are equal, or the channels cancel.')
    """
    return check_pieces(path, BLOCK_SECONDS, any_rate)[:2]


def check_pieces(path, piece_seconds, any_rate=False):
    """Decode a file and say what is wrong with it, and which of its pieces are silent.

    Arguments
    ---------
    path, any_rate
        As `check_audio` takes them.
    piece_seconds : int
        Length of a piece, s; the last may be shorter.

    Returns
    -------
    duration : float
    problem : str or None
        As `check_audio` returns them.
    silent : list of int
        The numbers of the pieces in which all samples are equal, beginning with 0.

    Example
    -------
    >>> path = getfixture("tmp_path") / "late.wav"
    >>> soundfile.write(path, np.r_[np.zeros(40000), np.sin(np.arange(8000))], 16000)
    >>> check_pieces(path, piece_seconds=1)
    (3.0, None, [0, 1])
    """
    samples, silent = 0, []
    try:
        with _opened(path) as file:
            rate, channels = file.samplerate, file.channels
            if not any_rate and (rate != SAMPLE_RATE or channels != 1):
                found = f"{channels} channel(s) at {rate} Hz"
                return 0.0, f"has {found}, expected 1 at {SAMPLE_RATE} Hz.", []
            for number, block in enumerate(_mono_blocks(file, path, piece_seconds)):
                samples += len(block)
                if block.min() == block.max():
                    silent.append(number)
    except FileNotFoundError:
        return 0.0, "cannot be decoded: there is no such file.", []
    except AudioError as error:
        return 0.0, error.problem, []
    return resampled_length(samples, rate) / SAMPLE_RATE, None, silent


def read_blocks(path):
    """Yield an audio file as blocks of 16 kHz mono; only a few blocks are in memory at a time.

    Channels are averaged. Other rates are resampled, to the same samples as the whole would be; of
    lower ones, which lack the upper part of the spectrum, a UserWarning tells.

    Arguments
    ---------
    path : str or Path
        Of a format that soundfile reads: WAV, FLAC, OGG, MP3, AIFF and others. Or such a file,
        opened in binary mode, a member of a tar shard, or a piece of a recording.

    Yields
    ------
    numpy.ndarray
        Shape (samples,), float32. The last block may be short, and others differ in length.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    AudioError
        Where it is not audio, is cut short, holds NaN or infinity, is shorter than one frame, or is
        silent: all samples are equal once channels are averaged. Most of it is known only at the
        end.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, (8000, 2)), 8000)
    >>> sum(len(block) for block in read_blocks(path))
    16000
    """
    with _opened(path) as file:
        if file.samplerate < SAMPLE_RATE:
            warnings.warn(
                f"{path} is sampled at {file.samplerate} Hz, so it holds nothing above "
                f"{file.samplerate // 2} Hz. Models of {SAMPLE_RATE} Hz speech take that for a "
                "channel: speakers are told apart less well, least of all from speech of another "
                "rate.",
                stacklevel=2,
            )
        yield from resample_blocks(_mono_blocks(file, path), file.samplerate)


@contextmanager
def _opened(path):
    """Open an audio file; what soundfile raises until it is closed becomes an AudioError."""
    if isinstance(path, io.TextIOBase):
        raise TypeError(f"{path} is opened as text: expected a path, or a file opened as 'rb'")
    source = open_audio(path)
    if hasattr(source, "read"):
        _check_open(source)
    elif not os.path.isfile(source):
        hint = ", or one with #t=START,STOP (s) behind it" if "#t=" in str(path) else ""
        raise FileNotFoundError(f"{path} is not a file: expected an audio file{hint}.")
    elif not os.access(source, os.R_OK):
        raise AudioError(path, "cannot be read: permission denied.")
    try:
        with _raw(source) as source, soundfile.SoundFile(source) as file:
            if file.format == "RAW":  # libsndfile takes any .au or .snd for samples, and others
                raise AudioError(path, "cannot be used: it has no header that tells what it holds.")
            rate = file.samplerate
            if not RATES[0] <= rate <= RATES[1]:
                found, expected = f"its sampling rate is {rate} Hz", f"{RATES[0]} to {RATES[1]} Hz"
                raise AudioError(path, f"cannot be used: {found}, expected {expected}.")
            if file.frames > UNKNOWN_FRAMES:
                raise AudioError(
                    path,
                    "cannot be used: its header tells no length, as where a FLAC is written to a "
                    "pipe. Decode it and encode it to a file.",
                )
            yield file
    except UNREADABLE as error:
        reason = getattr(error, "error_string", error)
        expected = "Expected WAV, FLAC, OGG, MP3 or another format that soundfile reads."
        raise AudioError(path, f"cannot be decoded as audio: {reason} {expected}") from error


def _raw(source):
    """Return what soundfile opens: of an MP3 the opened file, which tells how far it was read."""
    if hasattr(source, "read") or os.fsencode(source)[-4:].lower() != b".mp3":
        return nullcontext(source)
    return open(source, "rb")


def _check_open(file):
    """Raise ValueError unless an open file can be read from any place."""
    try:
        place = file.tell()
        file.seek(0, os.SEEK_END)
        file.seek(place)
        file.read(0)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} is closed, or cannot be read from any place: expected a path, a file opened "
            "as 'rb' or an io.BytesIO."
        ) from error


def _seek_piece(file, path):
    """Take an open recording to where the piece begins that a path names.

    Returns how many samples the piece has; infinity where the path names none.
    """
    piece = split_piece(path)
    if piece is None:
        return math.inf
    first, last = (None if at is None else round(at * file.samplerate) for at in piece[1:])
    last = file.frames if last is None else last
    overshoot = last - file.frames
    if first >= min(last, file.frames) or overshoot > MOST_OVERSHOOT * file.samplerate:
        raise AudioError(
            path,
            f"is no piece of the recording, which has {file.frames / file.samplerate:.2f} s: "
            "expected #t=START,STOP in seconds, within it.",
        )
    if file.seekable():
        file.seek(first)
    else:  # GSM 6.10 and some of telephony's other codecs
        skipped = 0
        while part := len(file.read(min(first - skipped, BLOCK_SECONDS * file.samplerate))):
            skipped += part
    return min(last, file.frames) - first


def _mono_blocks(file, path, seconds=BLOCK_SECONDS):
    """Yield blocks of the mean of the channels, at the file's rate; an AudioError if unusable."""
    if _is_cut(file):
        raise AudioError(path, "is cut short: its header announces more samples than it holds.")
    rate, samples, lowest, highest = file.samplerate, 0, math.inf, -math.inf
    left = _seek_piece(file, path)
    while len(block := file.read(min(left, seconds * rate), dtype="float32", always_2d=True)):
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            first = f"first at {(samples + bad.argmax()) / rate:.3f} s"
            raise AudioError(path, f"holds values that are not finite: NaN or infinity, {first}.")
        samples += len(block)
        left -= len(block)
        mono = block.mean(axis=1)
        lowest, highest = min(lowest, mono.min()), max(highest, mono.max())
        yield mono
    # An MP3 without a header of its own has its length estimated.
    expected = file.frames if left == math.inf else samples + left
    if expected - samples > (2 * MP3_FRAME if file.format == "MP3" else 0):
        raise AudioError(path, f"is cut short: {samples} of {expected} samples.")
    if left == math.inf and (more := _unread_seconds(file, samples / rate)) > MOST_UNREAD:
        raise AudioError(
            path,
            f"holds more than its header tells: {samples / rate:.1f} s can be read, and some "
            f"{more:.0f} s more are there. Convert it: ffmpeg -i OLD.mp3 NEW.flac",
        )
    if resampled_length(samples, rate) < RECEPTIVE_FIELD:
        found = f"{'' if samples else 'empty, '}too short: {samples / rate:.4f} s"
        raise AudioError(
            path, f"is {found}, and one frame takes {RECEPTIVE_FIELD / SAMPLE_RATE} s."
        )
    if lowest == highest:
        raise AudioError(
            path, "is silent: every sample is zero, all are equal, or the channels cancel."
        )


def _is_cut(file):
    """Tell whether a file holds less than it announces: libsndfile gives what there is, and a log.

    Of PVF, PAF, IRCAM and XI files it knows no length that they announce.
    """
    log = file.extra_info
    for name, announced, there in ANNOUNCED.findall(log):
        if name not in ("RIFF", "FORM") and int(there) < int(announced) < UNKNOWN_BYTES:
            return True  # the whole's size counts where the data's own is not told
    frames = [int(count) for count in FRAMES.findall(log)]
    if file.format == "NIST":
        frames.append(_nist_frames(file.name))
    return max(frames, default=0) > file.frames or bool(CUT.search(log)) or _lacks_end(file)


def _unread_seconds(file, seconds):
    """Return how much an MP3 holds that its header does not tell of, by the bytes of a second.

    libsndfile stops where the header, or the first frame's bit rate, has the end. Two MP3 one after
    the other have the length of the first.
    """
    if file.format != "MP3" or not hasattr(file.name, "tell"):
        return 0.0
    read = file.name.tell()
    rest = _read_at(file.name, read, -1)
    return 0.0 if b"APETAGEX" in rest else len(rest) / max(1, read) * seconds


def _nist_frames(path):
    """Return how many samples the header of a NIST SPHERE file announces, 0 where it does not."""
    found = re.search(rb"sample_count -i (\d+)", _read_at(path, 0, 1024))
    return int(found[1]) if found else 0


def _lacks_end(file):
    """Tell whether an Ogg file lacks the page that is marked as its last."""
    if file.format != "OGG":
        return False
    tail = _read_at(file.name, -OGG_PAGE, OGG_PAGE)
    flags = tail.rfind(b"OggS") + 5
    return not (flags < len(tail) and tail[flags] & 4)


def _read_at(path, start, count):
    """Return bytes of a file by its path, or of an open one, whose place stays as it is."""
    if not hasattr(path, "read"):
        with open(path, "rb") as file:
            return _read_at(file, start, count)
    place, size = path.tell(), path.seek(0, os.SEEK_END)
    path.seek(start if start >= 0 else max(0, size + start))
    found = path.read(count)
    path.seek(place)
    return found


def resample_blocks(blocks, rate):
    """Resample a stream to 16 kHz: the blocks together are what the whole gives resampled.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        Shape (samples,) each.
    rate : int
        Their sampling rate, Hz.

    Yields
    ------
    numpy.ndarray
        Shape (samples,). All together have ceil(samples * 16000 / rate).

    Example
    -------
    >>> blocks = resample_blocks([np.ones(48000), np.ones(1)], rate=48000)
    >>> sum(len(block) for block in blocks)
    16001
    """
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    from scipy.signal import firwin, resample_poly

    up, down = _ratio(rate)
    # The window and the cut at the lower Nyquist frequency are resample_poly's own.
    half = ZERO_CROSSINGS * max(up, down)
    taps = firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)
    # In steps of `down` samples, so that blocks begin on samples of either rate.
    margin = down * math.ceil(half / (up * down))
    held, lead = np.empty(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        ready = (len(held) - lead - margin) // down * down
        if ready > 0:
            first, last = lead // down * up, (lead + ready) // down * up
            yield resample_poly(held, up, down, window=taps)[first:last]
            kept = min(margin, lead + ready)
            held, lead = held[lead + ready - kept :], kept
    if len(held) > lead:
        yield resample_poly(held, up, down, window=taps)[lead // down * up :]


def _ratio(rate):
    """Return the factors that take a sampling rate up and down to 16 kHz."""
    divisor = math.gcd(rate, SAMPLE_RATE)
    return SAMPLE_RATE // divisor, rate // divisor
