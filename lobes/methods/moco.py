"""MoCo (He et al., arXiv 1911.05722): a crop is told from those of many batches before."""

import torch
from torch.nn import functional as F

from lobes.distributed import world_size
from lobes.methods.base import (
    UtteranceMethod,
    check_count,
    check_positive,
    check_share,
    move_average,
    teacher_of,
)
from lobes.methods.memory import Memory


class MoCo(UtteranceMethod):
    """InfoNCE (equation 1) of queries, of the encoder, and keys, of its moving average.

    Each crop is a query once. Its positive is the key of the other crop of its utterance, its
    negatives are the keys of earlier batches, of all ranks (algorithm 1).

    Arguments
    ---------
    encoder : UtteranceEncoder
        The one that is trained: its copy makes the keys.
    queue_size : int
        How many keys of earlier batches are kept. Well below twice the number of utterances, or
        many of them are of the query's own.
    temperature : float
        What the cosine similarities are divided by.
    momentum : float
        The share of the copy that stays in each step (equation 2).

    Example
    -------
    >>> from lobes.distributed import SharedCounts
    >>> from lobes.methods.base import Views
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6, projection_dim=0)
    >>> method = MoCo(encoder, queue_size=16)
    >>> crops = torch.randn(8, 16000), torch.ones(8)
    >>> taught = method.teach(encoder, crops, None)
    >>> views = Views(*encoder(*crops, project=True), None, taught, SharedCounts(rows=4))
    >>> method(views).shape
    torch.Size([])
    """

    def __init__(self, encoder, queue_size=32768, temperature=0.03, momentum=0.999):
        super().__init__()
        check_count(queue_size=queue_size)
        check_positive(temperature=temperature)
        check_share(momentum=momentum)
        self.temperature, self.momentum = temperature, momentum
        self.teacher = teacher_of(encoder)
        self.memory = Memory(queue_size, keys=self.teacher.projected_dim)

    @torch.no_grad()
    def teach(self, encoder, crops, reference):
        """Return the keys of both crops of each utterance, (2 * utterances, P), of unit length."""
        return F.normalize(self.teacher(*crops, project=True)[1].float(), dim=1)

    def forward(self, views):
        """Return the loss of `Views`, a scalar in nats; in training its keys are kept."""
        rows, keys = views.counts["rows"], views.taught
        with torch.autocast(keys.device.type, enabled=False):
            queries = F.normalize(views.projections.float(), dim=1)
            positives = torch.cat(keys.chunk(2)[::-1])
            own = (queries * positives).sum(1, keepdim=True)
            # A copy: the keys are overwritten below, before the gradient is computed.
            logits = torch.cat([own, queries @ self.memory.keys.clone().T], dim=1)
            first = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
            total = F.cross_entropy(logits / self.temperature, first, reduction="sum")
        if self.training:
            self.memory.add(2 * rows, keys=torch.stack(keys.chunk(2), dim=1).flatten(0, 1))
        return total * world_size() / (2 * int(rows.sum()))

    def follow(self, encoder, progress):
        """Move the copy towards the encoder."""
        move_average(self.teacher, encoder, self.momentum)
