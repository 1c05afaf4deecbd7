"""The command units: the k-means units of a layer's frames, a line of text for each file."""

import itertools
import os
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pretrained.commands.inputs import add_model, check_out_file, result_name
from pretrained.commands.messages import for_each
from pretrained.commands.runtime import check_device
from pretrained.plain_files import write_whole

QUANTIZER = "quantizer.safetensors"
DESCRIPTION = """
Writes a line for each file: its name without folder and suffix, a tab, and the units of its frames,
50 a second, with spaces between. --centroids are those of the same model and layer, which nothing
checks but their size.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    units = commands.add_parser(
        "units", help="write the units of audio files, a line for each", description=DESCRIPTION
    )
    units.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    add_model(units, "an exported model")
    units.add_argument(
        "--layer",
        required=True,
        type=int,
        help="of the frame encoder; 0 is its first layer's input",
    )
    units.add_argument(
        "--centroids",
        required=True,
        metavar="FILE",
        help=f"{QUANTIZER} of recipes/LibriSpeech/Units, or .npy of shape (units, d_model)",
    )
    units.add_argument("--collapse", action="store_true", help="write a repeated unit once")
    units.add_argument("--out", required=True, metavar="TXT", help="lines of NAME, tab, units")
    units.set_defaults(run=write_units)


def write_units(options):
    """Write the units of each file. A bad one is reported, and the others are written all the same.

    A line is the file's name without folder and suffix, a tab, and the units of its frames, 50 a
    second, with a space between.
    """
    check_out_file(options.out, [*options.files, options.centroids])
    names = {file: result_name(file) for file in options.files}
    name, times = Counter(names.values()).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} files have the name {name}: write their units to two files.")
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    device = check_device(options.device)
    name_units = make_namer(options.model, options.layer, options.centroids, device)
    lines = []

    def write_line(file):
        units = name_units(file)
        if options.collapse:
            units = [unit for unit, _ in itertools.groupby(units)]
        lines.append(f"{names[file]}\t{' '.join(map(str, units))}\n")

    code = for_each(tqdm(names, unit="file"), write_line)
    if lines:
        write_whole(options.out, os.fsencode("".join(lines)))
    return code


def make_namer(folder, layer, centroids, device="cpu"):
    """Return a function from an audio file to the units of its frames.

    Arguments
    ---------
    folder : str or Path
        An exported model with a frame encoder.
    layer : int
        Which of its hidden states; 0 is the input of the first layer.
    centroids : str or Path
        As `read_centres` takes them.
    device : str or torch.device
        Where to compute.

    Returns
    -------
    callable
        Maps a path to a list of int, 50 a second; of files longer than 30 s see
        `pretrained.file_states.FileStates`.

    Raises
    ------
    FileNotFoundError, ValueError
        Where there is no such folder, frame encoder, layer or file, or they do not fit each other.
    """
    from lobes.targets import KMeansQuantizer
    from pretrained.exported import load_model
    from pretrained.file_states import FileStates

    encoders = load_model(folder)
    if "frame_encoder" not in encoders:
        raise ValueError(f"{folder} holds no frame_encoder, whose frames have units.")
    config = encoders["frame_encoder"].config
    if not 0 <= layer <= config["num_layers"]:
        raise ValueError(f"layer is {layer}: {folder} has the layers 0 to {config['num_layers']}.")
    quantizer = KMeansQuantizer(read_centres(centroids, config["d_model"])).to(device)
    states = FileStates("frame_encoder", encoders, lambda states: states[:, :, layer], device)
    return lambda file: quantizer(states(file)[0][0]).tolist()


def read_centres(path, dim):
    """Return the centres of k-means.

    Arguments
    ---------
    path : str or Path
        A safetensors file that holds `centres`, as recipes leave it in `<output_folder>/units`, or
        an array in a .npy file.
    dim : int
        Of the frames that they are to name.

    Returns
    -------
    torch.Tensor
        Shape (units, dim), float32.

    Raises
    ------
    FileNotFoundError, ValueError
        Where there is no such file, or it holds no finite centres of this size.

    Example
    -------
    >>> import numpy as np
    >>> path = getfixture("tmp_path") / "centres.npy"
    >>> np.save(path, np.eye(3))
    >>> read_centres(path, dim=3).shape
    torch.Size([3, 3])
    """
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: expected the centres of k-means.")
    try:
        if path.suffix == ".npy":
            centres = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        else:
            centres = load_file(path)["centres"].float()
    except (SafetensorError, KeyError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} holds no centres of k-means ({error}): expected a safetensors file with the "
            "tensor centres, or an array in a .npy file."
        ) from error
    if centres.ndim != 2 or not len(centres) or not centres.isfinite().all():
        shape = tuple(centres.shape)
        raise ValueError(f"{path}: expected finite centres, (units, {dim}), found shape {shape}.")
    if centres.shape[1] != dim:
        raise ValueError(
            f"{path} has centres of {centres.shape[1]} dimensions, but the frames have {dim}: were "
            "they fitted on another model or on MFCC?"
        )
    return centres
