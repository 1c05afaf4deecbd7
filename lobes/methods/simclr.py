"""SimCLR (Chen et al., arXiv 2002.05709): the crops of a batch are told apart."""

from lobes.losses import nt_xent
from lobes.methods.base import UtteranceMethod, check_positive


class SimCLR(UtteranceMethod):
    """NT-Xent (equation 1) of the projections of two crops of each utterance.

    Arguments
    ---------
    temperature : float
        What the cosine similarities are divided by.

    Example
    -------
    >>> import torch
    >>> from lobes.distributed import SharedCounts
    >>> from lobes.methods.base import Views
    >>> views = Views(None, torch.randn(8, 6), None, None, SharedCounts(rows=4))
    >>> SimCLR(0.1)(views).shape
    torch.Size([])
    """

    def __init__(self, temperature=0.1):
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature

    def forward(self, views):
        """Return the loss of `Views`, a scalar in nats; see `lobes.losses.nt_xent`."""
        first, second = views.projections.chunk(2)
        return nt_xent(first, second, self.temperature, views.counts["rows"])
