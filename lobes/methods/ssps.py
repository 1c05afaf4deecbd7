"""SSPS (Lepage and Dehak, arXiv 2505.14561): positives from beyond the utterance.

Two crops of one utterance share their channel, which contrastive training therefore learns. Late in
training, the positive of an utterance becomes an embedding of another one that is probably of the
same speaker, in another recording.
"""

import torch
from torch.nn import functional as F

from lobes.distributed import row_offset
from lobes.losses import nt_xent
from lobes.methods.base import check_count, check_share
from lobes.methods.memory import Memory
from lobes.methods.simclr import SimCLR
from lobes.signal import to_device

FEWEST = 2  # utterances of the memory for each prototype
CHUNK = 2**26  # cosines that are in memory at a time


class SSPS(SimCLR):
    """NT-Xent whose positives are drawn from the neighbourhood of a reference embedding.

    A memory holds, of the last utterances, a reference embedding, of a longer crop that is not
    augmented, and the projection of an augmented crop. From `positives_from` on, each epoch begins
    with k-means of the references. The positive of an utterance is then the projection of a random
    utterance of the memory whose reference belongs to another prototype, one of the `neighbours`
    nearest to the utterance's own (section 3 there). Before, and where there is none, it is the
    other crop.

    Arguments
    ---------
    encoder : UtteranceEncoder
        The one that is trained.
    cluster : callable
        Takes a function that yields tensors (rows, dim), a number of centres and a seed, and
        returns the centres, (number, dim); see `recipes.common.units.kmeans.fit_kmeans`.
    positives_from : float
        The share of the epochs after which positives are drawn.
    prototypes : int
        Number of centres; fewer where the memory has fewer than two utterances for each.
    neighbours : int
        How many prototypes beside an utterance's own are drawn from.
    queue_size : int
        How many utterances are remembered.
    temperature : float
        As `SimCLR` takes it.

    Example
    -------
    >>> from lobes.distributed import SharedCounts
    >>> from lobes.methods.base import Views
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6, projection_dim=0)
    >>> def cluster(rows, number, seed, device):
    ...     return next(iter(rows()))[:number]
    >>> method = SSPS(encoder, cluster, queue_size=16)
    >>> crops = torch.randn(8, 16000), torch.ones(8)
    >>> views = Views(*encoder(*crops, project=True), None, None, SharedCounts(rows=4))
    >>> method(views).shape
    torch.Size([])
    """

    def __init__(
        self,
        encoder,
        cluster,
        positives_from=0.8,
        prototypes=25000,
        neighbours=1,
        queue_size=65536,
        temperature=0.03,
    ):
        super().__init__(temperature)
        check_share(positives_from=positives_from)
        check_count(least=2, prototypes=prototypes)
        check_count(neighbours=neighbours, queue_size=queue_size)
        embedding_dim = encoder.config["embedding_dim"]
        self.cluster, self.positives_from = cluster, positives_from
        self.neighbours = neighbours
        self.prototypes = prototypes
        # Of each utterance also the number of its prototype.
        sizes = {"references": embedding_dim, "views": encoder.projected_dim, "members": 1}
        self.memory = Memory(queue_size, **sizes)
        self.register_buffer("centres", torch.zeros(prototypes, embedding_dim))
        self.draws = self.remembers = False
        self.count = 0  # of the centres

    def begin_epoch(self, epoch, epochs, seed, resumed):
        """Decide whether positives are drawn in this epoch; if so, find the prototypes."""
        begins = self.positives_from * epochs
        self.draws, self.remembers = epoch - 1 >= begins, epoch >= begins
        if self.draws and not resumed:
            self.find_prototypes(seed)
        self.draws = self.draws and self.count > self.neighbours

    def find_prototypes(self, seed):
        """Cluster the references that the memory holds."""
        known = self.memory.references[: self.memory.filled]
        self.count = min(self.prototypes, len(known) // FEWEST)
        if self.count:
            passes = _passes(known, seed)
            centres = self.cluster(lambda: next(passes), self.count, seed, device=known.device)
            self.centres[: self.count] = F.normalize(centres.to(known.device), dim=1)
            self.memory.members[: len(known), 0] = self.prototypes_of(known).float()

    def prototypes_of(self, references):
        """Return the number of the prototype nearest to each reference, (rows,) int64."""
        with torch.autocast(references.device.type, enabled=False):  # bfloat16 would find others
            centres = self.centres[: self.count].T
            parts = references.float().split(max(1, CHUNK // self.count))
            return torch.cat([(part @ centres).argmax(1) for part in parts])

    @torch.no_grad()
    def teach(self, encoder, crops, reference):
        """Return the references of a batch where needed: (utterances, E), of unit length."""
        if not (self.training and self.remembers):
            return None
        encoder.eval()  # the statistics of the augmented crops stay apart
        embeddings = encoder(*reference).float()
        encoder.train()
        return F.normalize(embeddings, dim=1)

    def forward(self, views):
        """Return the loss of `Views`, a scalar in nats; in training they are remembered."""
        rows, references = views.counts["rows"], views.taught
        first, second = views.projections.chunk(2)
        if references is None:
            return super().forward(views)
        positives, own = second, torch.zeros(len(references), device=references.device)
        if self.draws:
            own = self.prototypes_of(references)
            drawn, found = self.draw_positives(own, rows, views.seed)
            positives = torch.where(found[:, None], drawn.to(second.dtype), second)
            views.figures = {"drawn_positives": found.float().mean()}
        loss = nt_xent(first, positives, self.temperature, rows)
        remembered = {"references": references, "views": second.detach(), "members": own[:, None]}
        self.memory.add(rows, **remembered)
        return loss

    def draw_positives(self, own, rows, seed):
        """Return a projection from the memory for each utterance, and where there was one.

        Arguments
        ---------
        own : torch.Tensor
            Shape (utterances of this rank,), int64, the prototype of each.
        rows : numpy.ndarray
            Shape (ranks,), the utterances of each rank.
        seed : int
            The same on every rank.

        Returns
        -------
        drawn : torch.Tensor
            Shape (utterances, P), float32.
        found : torch.Tensor
            Shape (utterances,), bool.
        """
        device, start = own.device, row_offset(rows)
        generator = torch.Generator().manual_seed(seed)
        chances = torch.rand(int(rows.sum()), 2, generator=generator, dtype=torch.float64)
        chances = to_device(chances[start : start + len(own)].float(), device)
        centres = self.centres[: self.count]
        with torch.autocast(device.type, enabled=False):
            near = (centres[own] @ centres.T).scatter(1, own[:, None], -2.0)
        near = near.topk(self.neighbours, dim=1).indices
        chosen = (chances[:, :1] * self.neighbours).long().clamp(max=self.neighbours - 1)
        wanted = near.gather(1, chosen)[:, 0]
        # The members of each prototype stand together in `order`.
        members = self.memory.members[: self.memory.filled, 0].long()
        order = members.argsort(stable=True)
        sizes = torch.zeros(self.count, dtype=torch.long, device=device)
        sizes = sizes.index_add(0, members, torch.ones_like(members))
        before, size = (sizes.cumsum(0) - sizes)[wanted], sizes[wanted]
        place = (chances[:, 1] * size).long().clamp(max=(size - 1).clamp(min=0))
        rows_of_memory = order[(before + place).clamp(max=len(order) - 1)]
        return self.memory.views[rows_of_memory], size > 0

    def get_extra_state(self):
        """Return what a checkpoint holds beside the buffers."""
        return torch.tensor(self.count)

    def set_extra_state(self, state):
        """Take what `get_extra_state` returned."""
        self.count = int(state)


def _passes(rows, seed):
    """Yield streams of rows for k-means: in each after the first in another order.

    k-means leaves out the last rows of a pass that are fewer than its centres.
    """
    draws = torch.Generator().manual_seed(seed)
    yield [rows]
    while True:
        order = torch.randperm(len(rows), generator=draws)
        yield [rows[to_device(order, rows.device)]]
