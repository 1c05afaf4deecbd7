"""Other toolkits' HuBERT Base on our batches, beside which ours is measured.

Audio, masks and dropout are ours; the loss is of the masked frames alone.
"""

from importlib.util import find_spec

import torch
from torch.nn import functional as F
from torchaudio.models import hubert_pretrain_base

HAS_TRANSFORMERS = find_spec("transformers") is not None  # an optional peer


class GivenMask(torch.nn.Module):
    """Takes the place of torchaudio's mask generator and masks what it is told to."""

    def __init__(self, mask, mask_embedding):
        super().__init__()
        self.mask = mask
        self.mask_embedding = mask_embedding

    def forward(self, x, padding_mask):
        """Return x with the embedding at masked frames, as torchaudio does, and the mask."""
        x[self.mask] = self.mask_embedding.to(x.dtype)
        return x, self.mask


def torchaudio_hubert(batch, num_targets, dropout=0.0, layer_drop=0.0):
    """Return torchaudio's HuBERT Base and its loss on a batch.

    Arguments
    ---------
    batch : SpeechBatch
        On the device that the model is moved to.
    num_targets : int
        Number of units.
    dropout, layer_drop : float
        As `lobes.frame_encoder.FrameEncoder` takes them.

    Returns
    -------
    model : torch.nn.Module
    loss : callable
        Without arguments.
    """
    model = hubert_pretrain_base(dropout, 0.0, 0.0, dropout, layer_drop, num_classes=num_targets)
    model.mask_generator = GivenMask(batch.mask.data.bool(), model.mask_generator.mask_embedding)
    model.logit_generator.skip_nomask = True
    wavs, lens = batch.sig.data, sample_counts(batch)
    units = batch.units.data.clamp(min=0)

    def loss():
        logits, _, _ = model(wavs, units, lens)
        # torchaudio puts the logit of the true unit first.
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))

    return model, loss


def hugging_face_hubert(batch, num_targets, dropout=0.0, layer_drop=0.0):
    """Return transformers' HuBERT Base, with a linear head, and its loss on a batch.

    Arguments and what is returned are those of `torchaudio_hubert`.
    """
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_dropout=dropout,
        feat_proj_dropout=dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=layer_drop,
    )
    head = torch.nn.Linear(config.hidden_size, num_targets)
    model = torch.nn.ModuleDict({"hubert": HubertModel(config), "head": head})
    wavs, lens, mask = batch.sig.data, sample_counts(batch), batch.mask.data.bool()
    valid = None
    if lens is not None:
        valid = (torch.arange(wavs.shape[1], device=wavs.device) < lens[:, None]).long()

    def loss():
        outputs = model["hubert"](wavs, attention_mask=valid, mask_time_indices=mask)
        frames = outputs.last_hidden_state.flatten(0, 1).index_select(0, batch.hidden)
        return F.cross_entropy(head(frames).float(), batch.units_at(batch.hidden))

    return model, loss


def sample_counts(batch):
    """Return how many samples each row of a batch has, (batch,) int64; None if all are full."""
    wavs, wav_lens = batch.sig
    if bool((wav_lens == 1).all()):
        return None
    return (wav_lens * wavs.shape[1]).round().long().to(wavs.device)
