"""What SpeechBrain's own `from_hparams` loads: an exported model as a `Pretrained` interface."""

import torch
from speechbrain.inference.interfaces import Pretrained

from pretrained.learn2diss import Learn2Diss


class Learn2DissInterface(Pretrained):
    """The encoders of a folder that `pretrained.toolkits.layouts.to_speechbrain` wrote.

    SpeechBrain builds what hyperparams.yaml says, which can be anything: only load folders that
    you trust. `Learn2Diss.from_pretrained` runs nothing.

    Example
    -------
    >>> from speechbrain.utils.fetching import FetchConfig, LocalStrategy
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained.toolkits.layouts import to_speechbrain
    >>> folder = getfixture("tmp_path") / "speechbrain"
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=24)
    >>> to_speechbrain({"utterance_encoder": encoder}, folder)
    >>> model = Learn2DissInterface.from_hparams(
    ...     source=str(folder),
    ...     savedir=str(folder.parent / "collected"),
    ...     fetch_config=FetchConfig(allow_network=False),
    ...     local_strategy=LocalStrategy.COPY,
    ... )
    >>> model.encode_batch(torch.randn(2, 16000)).utterance.shape
    torch.Size([2, 24])
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model = Learn2Diss(dict(self.mods.items()), self.device)

    def encode_batch(self, wavs, wav_lens=None, output_hidden_states=False):
        """Encode a batch of waveforms; see `Learn2Diss.encode`."""
        return self.model.encode(wavs, wav_lens, output_hidden_states)

    def encode_file(self, path):
        """Encode an audio file; see `Learn2Diss.encode_file`."""
        return self.model.encode_file(path)

    forward = encode_batch


def load_strictly(module, path):
    """Load a state dict into a module; SpeechBrain's own hook only warns of keys that are missing.

    Arguments
    ---------
    module : torch.nn.Module
    path : str or Path
        A file of tensors by name.

    Raises
    ------
    RuntimeError
        Where a tensor is missing, left over or of another shape; it is named.
    """
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
