"""The figures of a run as Markdown, for a README to take."""

from recipes.experiments.readmes import markdown_table

GIB = 1024  # MiB
HOURS = 960  # of speech: LibriSpeech


def tables(figures):
    """Return a table for each part, with what was left out and why.

    Arguments
    ---------
    figures : dict
        As metrics.json holds them.

    Returns
    -------
    str
    """
    machine, settings = figures["machine"], figures["settings"]
    card = machine.get("card", machine.get("processor"))
    blocks = [f"{card}, torch {machine.get('torch')}, {settings['size']} size."]
    for name, part in figures["parts"].items():
        blocks.append(f"## {name}")
        done = {key: step for key, step in part.get("steps", {}).items() if "error" not in step}
        if name in TABLES and done:
            blocks.append(markdown_table(*TABLES[name](done, figures)))
        failed = [key for key, step in part.get("steps", {}).items() if "error" in step]
        blocks += [f"Failed: {key}: {part['steps'][key]['error'][:200]}" for key in failed]
        blocks += [f"{key.capitalize()}: {part[key]}." for key in ("note", "error") if key in part]
    return "\n\n".join(blocks) + "\n"


def agreement_table(steps, figures):
    """Return the heads, the columns and the rows of relative differences."""
    rows = [
        [stage, pair, *(f"{kinds[kind]['all']:.1e}" for kind in ("outputs", "loss", "gradients"))]
        + [f"{kinds['gradients']['worst']:.1e}", f"`{kinds['gradients']['where']}`"]
        for stage, step in steps.items()
        for pair, kinds in step.items()
        if isinstance(kinds, dict)
    ]
    heads = ["stage", "compared", "outputs", "loss", "gradients", "worst gradient", "of"]
    return heads, "llrrrrl", rows


def speed_table(steps, figures):
    """Return likewise the speed of steps; the share is of the card's own product of matrices, the
    hours those of an epoch of 960 hours, where loading keeps up."""
    product = figures["parts"].get("speed", {}).get("steps", {}).get("matrix product", {})
    rows = []
    for name, step in steps.items():
        if step.get("out_of_memory"):
            rows.append([name, "", "out of memory", *[""] * 5])
        elif "batch_seconds" in step:
            rate, tflops = step["audio_seconds_per_second"], step.get("tflops")
            share = tflops and product.get("tflops") and tflops / product["tflops"]
            rows.append(
                [
                    name,
                    f"{step['batch_seconds']:.1f}",
                    f"{step['step_seconds']:.4g}",
                    f"{rate:.0f}",
                    f"{HOURS / rate:.3g}",
                    f"{tflops:.3g}" if tflops else "",
                    f"{100 * share:.0f}" if share else "",
                    f"{step['peak_mib'] / GIB:.1f}" if "peak_mib" in step else "",
                ]
            )
    heads = ["step", "audio, s", "step, s", "audio s/s", f"epoch of {HOURS} h, h"]
    heads += ["TFLOP/s", "% of product", "peak, GiB"]
    return heads, "lrrrrrrr", rows


def encoding_table(steps, figures):
    """Return likewise the speed of encoding."""
    rows = [
        [name, f"{step['audio_seconds']:.0f}", f"{step['seconds']:.3g}"]
        + [f"{step['audio_seconds_per_second']:.0f}"]
        for name, step in steps.items()
    ]
    return ["encoding", "audio, s", "time, s", "audio s/s"], "lrrr", rows


def units_table(steps, figures):
    """Return likewise the speed of units."""
    rows = [[name, f"{step['frames_per_second']:.3g}"] for name, step in steps.items()]
    return ["units", "frames/s"], "lr", rows


def stages_table(steps, figures):
    """Return likewise the losses of the stages."""
    rows = [
        [name, str(step["steps"]), str(step["epochs_before_the_kill"])]
        + [f"{step[f'{split}_losses'][n]:.3f}" for split in ("train", "valid") for n in (0, -1)]
        + [f"{step['audio_seconds_per_second']:.0f}", f"{step['seconds']:.0f}"]
        for name, step in steps.items()
        if "steps" in step
    ]
    heads = ["stage", "steps", "epochs before a kill", "train loss, first", "last"]
    heads += ["valid loss, first", "last", "audio s/s", "time, s"]
    return heads, "l" + "r" * 8, rows


def profile_table(steps, figures):
    """Return likewise the dearest kernels of each stage, then what makes the host wait."""
    rows = []
    for stage, step in steps.items():
        rows.append([stage, "device busy", "", f"{1000 * step['step_seconds']:.2f}"])
        rows[-1][2] = f"{100 * step['busy_share']:.0f} %"
        for kind in ("kernels", "waits"):
            rows += [
                [
                    stage,
                    f"`{row['name'][:60]}`",
                    f"{row['calls']:.1f}",
                    f"{row['milliseconds']:.3f}",
                ]
                for row in step[kind]
            ]
        places = step.get("places", {})
        rows += [[stage, f"waits at {at}", f"{calls}", ""] for at, calls in places.items()]
    return ["stage", "kernel or wait", "calls", "ms of a step"], "llrr", rows


TABLES = {
    "agreement": agreement_table,
    "speed": speed_table,
    "largest": speed_table,
    "compiled": speed_table,
    "encoding": encoding_table,
    "units": units_table,
    "stages": stages_table,
    "profile": profile_table,
}
