"""Critics of the mutual information of frames and utterance embeddings, one file each."""

from lobes.critics.club import CLUB, LinearCLUB
from lobes.critics.pseudo_speakers import PseudoSpeakerCritic


def make_critic(kind, x_dim, y_dim, hidden_dim=512, momentum=0.1, ridge=0.01):
    """Return what joint training minimises, by its name.

    Arguments
    ---------
    kind : str
        "linear" (`LinearCLUB`), "network" (`CLUB`) or "classifier" (`PseudoSpeakerCritic`).
    x_dim, y_dim : int
        Features of x and of y.
    hidden_dim : int
        Hidden units of a network.
    momentum, ridge : float
        Of the linear one.

    Returns
    -------
    MICritic

    Raises
    ------
    ValueError
        Where the name is another.

    Example
    -------
    >>> type(make_critic("linear", x_dim=6, y_dim=4)).__name__
    'LinearCLUB'
    """
    if kind == "linear":
        return LinearCLUB(x_dim, y_dim, momentum, ridge)
    if kind == "network":
        return CLUB(x_dim, y_dim, hidden_dim)
    if kind == "classifier":
        return PseudoSpeakerCritic(x_dim, y_dim, hidden_dim)
    raise ValueError(f"critic_kind must be 'linear', 'network' or 'classifier', not {kind!r}")
