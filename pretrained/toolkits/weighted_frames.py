"""A frame encoder in the place of SpeechBrain's WeightedSSLModel, as its benchmark MP3S has it."""

from torch import nn
from torch.nn import functional as F

from lobes.heads import WeightedSum
from lobes.states import FrameStates
from pretrained.learn2diss import Learn2Diss


class WeightedFrames(nn.Module):
    """A learned weighted sum of a frame encoder's hidden states, the last one being its frames.

    It takes what `speechbrain.integrations.huggingface.weighted_ssl.WeightedSSLModel` takes, and an
    exported folder as it is: any front end, directions erased. A row gets the same frames in every
    batch.

    Arguments
    ---------
    hub : str or Path
        What `Learn2Diss.from_pretrained` takes, with a frame encoder.
    save_path : str
        Not used: the encoder stays where it is.
    layernorm : bool
        Whether each hidden state is normalised before they are summed.
    freeze : bool
        Whether the encoder stays as it is: without gradients, in evaluation mode.

    Raises
    ------
    ValueError
        Where the folder holds no frame encoder.

    Example
    -------
    >>> import torch
    >>> from lobes.frame_encoder import FrameEncoder
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path") / "model"
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> save_model(folder, {"frame_encoder": encoder})
    >>> WeightedFrames(folder, freeze=True)(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 49, 32])
    """

    def __init__(self, hub, save_path="", layernorm=False, freeze=False):
        super().__init__()
        self.freeze, self.layernorm = freeze, layernorm
        self.states = FrameStates(frame_encoder_of(hub))
        self.states.requires_grad_(not freeze)
        self.weighted_sum = WeightedSum(self.states.num_layers)

    def train(self, mode=True):
        """Set the mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.states.eval()
        return self

    def forward(self, wav, wav_lens=None):
        """Map waveforms (batch, samples) and their relative lengths to (batch, frames, d_model)."""
        states, _ = self.states(wav, wav_lens)
        if self.layernorm:
            states = F.layer_norm(states, states.shape[-1:])
        return self.weighted_sum(states)


def frame_encoder_of(folder):
    """Return the frame encoder of what `Learn2Diss.from_pretrained` takes, or a ValueError."""
    encoder = Learn2Diss.from_pretrained(folder).frame_encoder
    if encoder is None:
        raise ValueError(f"{folder} holds no frame encoder, only an utterance encoder.")
    return encoder
