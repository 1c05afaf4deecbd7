#!/usr/bin/env python3
"""What a GPU makes of the base size, and of the small one's steps.

    make gpu                # or make gpu DEVICE=cpu: the same at the tiny size, as a rehearsal
    python -m tests.gpu --size small    # all parts at the small size

Agreement with the CPU; speed and memory of the stages beside other toolkits; encoding; units; the
stages by the recipes' own command; a profile. Nothing is downloaded. Writes metrics.json,
after every step, and table.md. Exits with 1 where a part failed.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.gpu import agreement, encoding, largest, profiling, quantizing, speed, stage_runs
from tests.gpu.running import Settings, run_parts

ROOT = Path(__file__).parents[2]
PARTS = {  # in the order of their worth, with shares of the time
    "agreement": (agreement.steps, 10),
    "speed": (speed.steps, 22),
    "largest": (largest.steps, 12),
    "encoding": (encoding.steps, 8),
    "units": (quantizing.steps, 6),
    "stages": (stage_runs.steps, 24),
    "profile": (profiling.steps, 6),
    "compiled": (speed.compiled_steps, 12),  # last: a compiler takes what time it takes
}


def main(arguments):
    """Measure all parts; return 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda, where it is")
    sizes = ["base", "small", "tiny"]
    parser.add_argument("--size", choices=sizes, help="default: base on cuda, else tiny")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--audio", type=Path, help="a folder of speech; default: synthetic voices")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        if options.device:
            parser.error("--device cuda: torch sees no CUDA device here")
        print("No CUDA device: nothing is measured. make gpu DEVICE=cpu rehearses it on the CPU.")
        return 0
    if options.audio and not options.audio.is_dir():
        parser.error(f"--audio {options.audio}: there is no such folder")
    device = options.device or "cuda"
    size = options.size or ("base" if device == "cuda" else "tiny")
    out = options.out.resolve()
    audio = options.audio.resolve() if options.audio else None
    settings = Settings(device, size, audio, out, options.minutes, time.time())
    parts = {name: steps for name, (steps, _) in PARTS.items()}
    shares = {name: share for name, (_, share) in PARTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        failed = run_parts(settings, parts, shares, Path(folder))
    print((out / "table.md").read_text(encoding="utf-8"))
    if failed:
        print(f"Failed: {', '.join(failed)}; the errors are in {out / 'metrics.json'}.")
    return int(bool(failed))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the parts' process ends as well
    sys.exit(main(sys.argv[1:]))
