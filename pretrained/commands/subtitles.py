"""Words with times as subtitles: SubRip (SRT) and WebVTT."""

import html

from pretrained.commands.messages import CONTROL

MOST_CHARACTERS = 42  # of a line, as broadcasters have it
MOST_SECONDS = 7.0
FEWEST_SECONDS = 1.0  # that a cue is shown, unless the next one begins
PAUSE = 0.8  # seconds; after one, a cue begins


def make_cues(words):
    """Return cues, each a line of words that follow on each other.

    A cue begins after a pause of 0.8 s, and where the line would have more than 42 characters or
    last longer than 7 s. It is shown for a second at least, or until the next one.

    Arguments
    ---------
    words : list of pretrained.tasks.transcriber.Word

    Returns
    -------
    list of tuple
        Text, start and end, in seconds.

    Example
    -------
    >>> from pretrained.tasks.transcriber import Word
    >>> make_cues([Word("HI", 0.0, 0.1), Word("YOU", 0.2, 0.3), Word("NO", 4.0, 5.5)])
    [('HI YOU', 0.0, 1.0), ('NO', 4.0, 5.5)]
    """
    lines = []
    for word in words:
        if not lines or not _fits(lines[-1], word):
            lines.append([])
        lines[-1].append(word)
    cues = [(" ".join(w.text for w in line), line[0].start, line[-1].end) for line in lines]
    following = [start for _, start, _ in cues][1:] + [float("inf")]
    return [
        (text, start, max(end, min(start + FEWEST_SECONDS, latest)))
        for (text, start, end), latest in zip(cues, following, strict=False)
    ]


def _fits(line, word):
    characters = sum(len(other.text) + 1 for other in line) + len(word.text)
    seconds, pause = word.end - line[0].start, word.start - line[-1].end
    return characters <= MOST_CHARACTERS and seconds <= MOST_SECONDS and pause < PAUSE


def format_srt(cues):
    """Return cues as the text of an SRT file.

    Example
    -------
    >>> print(format_srt([("HI", 0.0, 3661.5)]), end="")
    1
    00:00:00,000 --> 01:01:01,500
    HI
    """
    blocks = [
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{CONTROL.sub(' ', text)}\n"
        for number, (text, start, end) in enumerate(cues, 1)
    ]
    return "\n".join(blocks)


def format_vtt(cues):
    """Return cues as the text of a WebVTT file.

    Example
    -------
    >>> print(format_vtt([("A & B", 0.0, 1.0)]), end="")
    WEBVTT
    <BLANKLINE>
    00:00:00.000 --> 00:00:01.000
    A &amp; B
    """
    blocks = ["WEBVTT\n"]
    for text, start, end in cues:
        text = html.escape(CONTROL.sub(" ", text), quote=False)
        blocks.append(f"{_time(start, '.')} --> {_time(end, '.')}\n{text}\n")
    return "\n".join(blocks)


def _time(seconds, point):
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"
