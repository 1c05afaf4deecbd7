"""VICReg (Bardes et al., arXiv 2105.04906): crops agree, and dimensions neither die nor repeat."""

import torch
from torch import nn
from torch.nn import functional as F

from lobes.distributed import gather_rows
from lobes.methods.base import UtteranceMethod, check_count, check_positive
from lobes.tdnn import MaskedBatchNorm1d

VARIANCE_FLOOR = 1e-4  # under the square root of equation 2


class VICReg(UtteranceMethod):
    """Invariance, variance and covariance (equation 6) of expanded embeddings.

    Arguments
    ---------
    encoder : UtteranceEncoder
        The one that is trained: the expander takes its projection, or its embedding.
    hidden_dim, expanded_dim : int
        Sizes of the expander's hidden layers and of its output.
    invariance, variance, covariance : float
        The weights of the three terms.

    Example
    -------
    >>> from lobes.distributed import SharedCounts
    >>> from lobes.methods.base import Views
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6, projection_dim=0)
    >>> views = Views(None, torch.randn(8, 6), None, None, SharedCounts(rows=4))
    >>> VICReg(encoder, hidden_dim=16, expanded_dim=16)(views).shape
    torch.Size([])
    """

    def __init__(
        self,
        encoder,
        hidden_dim=2048,
        expanded_dim=512,
        invariance=1.0,
        variance=1.0,
        covariance=0.04,
    ):
        super().__init__()
        check_count(hidden_dim=hidden_dim)
        check_count(least=2, expanded_dim=expanded_dim)
        check_positive(invariance=invariance, variance=variance, covariance=covariance)
        self.weights = {
            "invariance": invariance,
            "variance": variance,
            "covariance": covariance,
        }
        self.expander = nn.Sequential(
            nn.Linear(encoder.projected_dim, hidden_dim),
            MaskedBatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            MaskedBatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, expanded_dim),
        )

    def forward(self, views):
        """Return the loss of `Views`, a scalar; the figures are its terms before they are weighted.

        The moments are those of the rows of all ranks.
        """
        expanded = self.expander(views.projections)
        with torch.autocast(expanded.device.type, enabled=False):
            both = torch.stack(expanded.float().chunk(2), dim=1)
            both = gather_rows(both, views.counts["rows"])
            terms = vicreg_terms(*both.unbind(1))
        views.figures = {name: term.detach() for name, term in terms.items()}
        return sum(self.weights[name] * term for name, term in terms.items())


def vicreg_terms(first, second):
    """Return the terms of VICReg (arXiv 2105.04906, equations 1 to 5) for two views.

    Arguments
    ---------
    first, second : torch.Tensor
        Shape (rows, dim), float32; at least two rows.

    Returns
    -------
    dict
        `invariance`, the mean squared difference; `variance`, how far deviations are below 1, the
        mean of both views; `covariance`, the squared covariances of different dimensions, summed,
        over dim, of both views. Scalars.

    Raises
    ------
    ValueError
        Where there is a single row, which has no variance.

    Example
    -------
    >>> terms = vicreg_terms(torch.zeros(4, 3), torch.zeros(4, 3))
    >>> {name: round(term.item(), 2) for name, term in terms.items()}
    {'invariance': 0.0, 'variance': 0.99, 'covariance': 0.0}
    """
    rows, dim = first.shape
    if rows < 2:
        raise ValueError("VICReg needs at least two utterances: one alone has no variance")
    variance, covariance = 0.0, 0.0
    for view in (first, second):
        centred = view - view.mean(0)
        moments = centred.T @ centred / (rows - 1)
        own = moments.diagonal()
        variance = variance + F.relu(1 - (own + VARIANCE_FLOOR).sqrt()).mean() / 2
        covariance = covariance + (moments.square().sum() - own.square().sum()) / dim
    invariance = F.mse_loss(first, second)
    return {"invariance": invariance, "variance": variance, "covariance": covariance}
