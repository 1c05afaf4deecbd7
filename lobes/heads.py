"""Light heads over the states of `lobes.states`, after SUPERB (Yang et al., Interspeech 2021).

Each head begins with a learned weighted sum over layers. `CTCHead` recognises phonemes (linear) or
characters (BLSTM); `ClassificationHead` classifies utterances; `SpeakerHead` makes an embedding, by
the mean over time or by an x-vector network, that `CosineClassifier` classifies in training.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from lobes.losses import cosines
from lobes.signal import length_mask, masked_mean, masked_mean_std, mean_std_of_parts
from lobes.tdnn import TDNNBlock

BLANK = 0  # of CTC
POOLED = 3  # what is pooled is so many times as wide
# Kernel, dilation and relative width of each layer (Snyder et al., 2018).
XVECTOR = ((5, 1, 1), (3, 2, 1), (3, 3, 1), (1, 1, 1), (1, 1, POOLED))


def check_layers(last_layers, num_layers):
    """Raise ValueError unless states of a number of layers have as many last ones, or 0 for all."""
    if not isinstance(last_layers, int) or not 0 <= last_layers <= num_layers:
        raise ValueError(
            f"last_layers is {last_layers!r}: expected 1 to {num_layers}, which the states have, "
            "or 0 for all."
        )


class WeightedSum(nn.Module):
    """A softmax-weighted sum over layers; all weigh the same at first.

    Arguments
    ---------
    num_layers : int
    last_layers : int
        How many of the last layers are summed; 0 for all.

    Raises
    ------
    ValueError
        Where there are not as many.

    Example
    -------
    >>> WeightedSum(3)(torch.ones(2, 50, 3, 32)).shape
    torch.Size([2, 50, 32])
    """

    def __init__(self, num_layers, last_layers=0):
        super().__init__()
        check_layers(last_layers, num_layers)
        self.weights = nn.Parameter(torch.zeros(last_layers or num_layers))

    def forward(self, states):
        """Map (batch, frames, num_layers, dim) to (batch, frames, dim)."""
        states = states[:, :, -len(self.weights) :]
        return torch.einsum("bfld,l->bfd", states, self.weights.softmax(0).to(states.dtype))


class CTCHead(nn.Module):
    """Logits of symbols and of the blank, frame by frame.

    Arguments
    ---------
    num_layers : int
        Layers of the states.
    in_dim : int
        Size of a state.
    num_symbols : int
        Symbols, the blank (index 0) included.
    hidden_dim : int
        Size of the projection, and of the LSTM in each direction.
    lstm_layers : int
        Bidirectional LSTM layers; with 0, the head is two linear maps.
    dropout : float
        Before, between and after LSTM layers.
    stride : int
        How many frames, side by side, make one: 2 halves the rate and the time that an LSTM takes.
    last_layers : int
        How many of the last layers are summed; 0 for all.

    Example
    -------
    >>> head = CTCHead(num_layers=3, in_dim=32, num_symbols=30, hidden_dim=16, lstm_layers=1)
    >>> logits, lens = head(torch.randn(2, 50, 3, 32), torch.tensor([50, 20]))
    >>> logits.shape, lens.tolist()
    (torch.Size([2, 50, 30]), [50, 20])
    """

    def __init__(
        self,
        num_layers=1,
        in_dim=240,
        num_symbols=30,
        hidden_dim=256,
        lstm_layers=0,
        dropout=0.0,
        stride=1,
        last_layers=0,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = config
        self.stride = stride
        self.weighted_sum = WeightedSum(num_layers, last_layers)
        self.projection = nn.Linear(stride * in_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.lstm = None
        if lstm_layers > 0:
            between = dropout if lstm_layers > 1 else 0.0
            self.lstm = nn.LSTM(
                hidden_dim,
                hidden_dim,
                lstm_layers,
                batch_first=True,
                bidirectional=True,
                dropout=between,
            )
        self.output = nn.Linear((2 if self.lstm else 1) * hidden_dim, num_symbols)

    def forward(self, states, lens):
        """Return logits and their lengths.

        Arguments
        ---------
        states : torch.Tensor
            Shape (batch, frames, num_layers, in_dim).
        lens : torch.Tensor
            Shape (batch,), int64, valid frames of each row.

        Returns
        -------
        tuple of torch.Tensor
            Logits (batch, ceil(frames / stride), num_symbols), those of padded frames arbitrary;
            lengths (batch,), int64.
        """
        return self.classify(self.weighted_sum(states), lens)

    def classify(self, x, lens):
        """Return what `forward` does, from states summed over layers, (batch, frames, in_dim)."""
        x = x.where(length_mask(lens, x.shape[1])[..., None], 0.0)
        x = self.projection(self._stack(x))
        lens = self.output_lens(lens)
        if self.lstm is not None:
            x = self.dropout(self._recur(self.dropout(x), lens))
        return self.output(x), lens

    def output_lens(self, lens):
        """Return how many output frames a number of input frames gives, of the argument's type."""
        return (lens + self.stride - 1) // self.stride  # ONNX rounds a division towards zero

    def _stack(self, x):
        if self.stride == 1:
            return x
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        return x.unflatten(1, (-1, self.stride)).flatten(2)

    def _recur(self, x, lens):
        """Run the LSTM, each row up to its own end; a row without frames has one of padding."""
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lens.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        return nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=x.shape[1]
        )[0]


class ClassificationHead(nn.Module):
    """Logits of the classes of an utterance: a linear map, the mean over time, a linear classifier.

    Arguments
    ---------
    num_layers : int
        Layers of the states.
    in_dim : int
        Size of a state.
    num_classes : int
    hidden_dim : int
        Size of the linear projection.
    last_layers : int
        How many of the last layers are summed; 0 for all.
    slots : sequence of int
        Of classes that are combinations of the values of several slots, such as action and object,
        the last slot's running fastest: the number of values of each. There is a linear classifier
        of each slot then, so that combinations without any training utterance can be told as well.
        Empty for classes without slots.

    Raises
    ------
    ValueError
        Where the slots have other than `num_classes` combinations.

    Example
    -------
    >>> head = ClassificationHead(num_layers=3, in_dim=32, num_classes=4, hidden_dim=16)
    >>> head(torch.randn(2, 50, 3, 32), torch.tensor([50, 20])).shape
    torch.Size([2, 4])
    >>> ClassificationHead(num_classes=20, slots=[4, 5]).output.out_features
    9
    """

    def __init__(
        self, num_layers=1, in_dim=240, num_classes=2, hidden_dim=256, last_layers=0, slots=()
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = {**config, "slots": list(slots)}
        self.slots = list(slots) or [num_classes]
        if math.prod(self.slots) != num_classes:
            raise ValueError(
                f"slots of {slots} values have {math.prod(self.slots)} combinations, and "
                f"num_classes is {num_classes}: expected as many."
            )
        self.weighted_sum = WeightedSum(num_layers, last_layers)
        self.projection = nn.Linear(in_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, sum(self.slots))

    def forward(self, states, lens):
        """Return logits.

        Arguments
        ---------
        states : torch.Tensor
            Shape (batch, frames, num_layers, in_dim).
        lens : torch.Tensor
            Shape (batch,), int64, valid frames of each row.

        Returns
        -------
        torch.Tensor
            Shape (batch, num_classes).
        """
        return self.classify(self.weighted_sum(states), lens)

    def classify(self, x, lens):
        """Return what `forward` does, from states summed over layers, (batch, frames, in_dim)."""
        # The mean of linear maps is the linear map of the mean, which takes less memory.
        mean = masked_mean(x.transpose(1, 2), length_mask(lens, x.shape[1]))
        logits = self.output(self.projection(mean))
        return logits if len(self.slots) == 1 else combine_slots(logits.split(self.slots, 1))


def combine_slots(logits):
    """Return the log-probabilities of all combinations of independent slots' values.

    Their cross-entropy is the sum of the slots' cross-entropies, and the best combination is that
    of each slot's best value.

    Arguments
    ---------
    logits : iterable of torch.Tensor
        For each slot, shape (batch, values).

    Returns
    -------
    torch.Tensor
        Shape (batch, product of the numbers of values); the last slot's values run fastest.

    Example
    -------
    >>> combine_slots([torch.zeros(1, 2), torch.zeros(1, 3)]).exp()
    tensor([[0.1667, 0.1667, 0.1667, 0.1667, 0.1667, 0.1667]])
    """
    combined, *rest = (slot.log_softmax(1) for slot in logits)
    for slot in rest:
        combined = (combined[:, :, None] + slot[:, None]).flatten(1)
    return combined


class SpeakerHead(nn.Module):
    """An embedding of each utterance.

    Arguments
    ---------
    num_layers : int
        Layers of the states.
    in_dim : int
        Size of a state.
    hidden_dim : int
        Size of the linear projection of each frame.
    pooling : str
        "mean": the mean of the projected frames is the embedding. "xvector": five TDNN blocks,
        mean and deviation over time, and a linear layer.
    embedding_dim : int
        Size of the embedding ("xvector" only).
    last_layers : int
        How many of the last layers are summed; 0 for all.

    Raises
    ------
    ValueError
        Where `pooling` is neither.

    Example
    -------
    >>> head = SpeakerHead(num_layers=3, in_dim=32, hidden_dim=16, pooling="xvector")
    >>> head(torch.randn(2, 50, 3, 32), torch.tensor([50, 20])).shape
    torch.Size([2, 512])
    """

    def __init__(
        self,
        num_layers=1,
        in_dim=240,
        hidden_dim=256,
        pooling="mean",
        embedding_dim=512,
        last_layers=0,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if pooling not in ("mean", "xvector"):
            raise ValueError(f"pooling must be 'mean' or 'xvector', not {pooling!r}")
        self.config = config
        self.embedding_dim = hidden_dim if pooling == "mean" else embedding_dim
        self.weighted_sum = WeightedSum(num_layers, last_layers)
        self.projection = nn.Linear(in_dim, hidden_dim)
        self.blocks = None
        if pooling == "xvector":
            self.blocks = nn.ModuleList(
                TDNNBlock(hidden_dim, width * hidden_dim, kernel, dilation, reflect=False)
                for kernel, dilation, width in XVECTOR
            )
            self.embedding = nn.Linear(2 * POOLED * hidden_dim, embedding_dim)

    def forward(self, states, lens):
        """Return embeddings.

        Arguments
        ---------
        states : torch.Tensor
            Shape (batch, frames, num_layers, in_dim).
        lens : torch.Tensor
            Shape (batch,), int64, valid frames of each row.

        Returns
        -------
        torch.Tensor
            Shape (batch, embedding_dim), float32.
        """
        return self.embed(self.weighted_sum(states), lens)

    def embed(self, x, lens):
        """Return what `forward` does, from states summed over layers, (batch, frames, in_dim)."""
        valid = length_mask(lens, x.shape[1])
        x = self.frames(x, (lens, valid))
        if self.blocks is None:
            return masked_mean(x, valid)
        return self._embed_statistics(masked_mean_std(x, valid))

    def frames(self, x, padding=None):
        """Return what is pooled over time.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, frames, in_dim), states summed over layers.
        padding : tuple of torch.Tensor, optional
            Lengths (batch,) and validity (batch, frames); None where nothing is padded.

        Returns
        -------
        torch.Tensor
            Shape (batch, hidden_dim, frames), with "xvector" three times as many channels.
        """
        x = self.projection(x).transpose(1, 2)
        if self.blocks is None:
            return x
        if padding is not None:
            x = x.where(padding[1][:, None], 0.0)
        for block in self.blocks:
            x = block(x, padding)
        return x

    def embed_parts(self, parts):
        """Return the embedding of a recording whose `frames` come in parts ("xvector" only).

        Arguments
        ---------
        parts : iterable of torch.Tensor
            Shape (batch, channels, time) each.

        Returns
        -------
        torch.Tensor
            Shape (batch, embedding_dim), float32.
        """
        return self._embed_statistics(mean_std_of_parts(parts))

    def _embed_statistics(self, statistics):
        with torch.autocast(statistics[0].device.type, enabled=False):
            return self.embedding(torch.cat(statistics, dim=1))


class CosineClassifier(nn.Module):
    """Cosines of embeddings to one learned direction a class, for losses with a margin.

    Arguments
    ---------
    embedding_dim : int
    num_classes : int

    Example
    -------
    >>> cosines = CosineClassifier(16, 10)(torch.randn(4, 16))
    >>> cosines.shape, bool(cosines.abs().max() <= 1)
    (torch.Size([4, 10]), True)
    """

    def __init__(self, embedding_dim, num_classes):
        super().__init__()
        self.directions = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.xavier_uniform_(self.directions)

    def forward(self, x):
        """Map (batch, embedding_dim) to float32 cosines (batch, num_classes)."""
        return cosines(x, self.directions)
