"""Critics that estimate the mutual information of two representations from their paired rows.

CLUB is the upper bound that training minimises; InfoNCE is a lower bound to watch beside
it. All share one interface: `critic(x, y, groups, mode)` gives nats.

- "estimate": the value of the bound.
- "objective": what the critic's own training maximises. Of CLUB it is the mean of log q(y|x), in
  nats, of standardised y; of a lower bound, the estimate.

In training mode the calls that may train a critic update its running statistics: the objective,
and with it the estimate of a lower bound. CLUB's estimate, which trains the encoders, does not, so
that a batch counts by its critic steps alone.

A negative pairs the x of one row with the y of a row of another group (utterance), whichever rank
holds it. Where there are several ranks, a group's name is the same on all of them and each rank
receives its share of the value times the number of ranks (see `lobes.distributed`).

Inputs are standardised without affine parameters, by the statistics of the batch in training
mode, so that an encoder cannot lower an estimate by shrinking its output. All is computed in
float32. Gradients reach the inputs in every mode: the caller detaches them where it trains the
critic.

References
----------
Cheng et al., CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information, arXiv 2006.12013.
van den Oord et al., Representation Learning with Contrastive Predictive Coding, arXiv 1807.03748.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from lobes.critics.groups import GroupIndex, index_groups
from lobes.distributed import all_reduce_sum, world_size


class RandomFeatures(nn.Module):
    """Rectified random projections of frames; their means over time tell of all moments of frames.

    Feature i of a frame x is max(0, w_i . x / sqrt(dim) - b_i), with w_i drawn from a standard
    normal distribution and b_i from its positive half, the same in every run. No b_i is below 0:
    such a feature might be above 0 at every frame, and its mean tell of the mean frame alone. A
    linear critic of means over frames sees what shifts the mean. Of means of these features it also
    sees deviations, correlations and higher moments, with which frames can tell the speaker where
    each utterance has the same mean.
    Frames should vary by about 1 in each dimension, as after a layer normalisation.

    Arguments
    ---------
    dim : int
        Of frames.
    count : int
        Features; 0: frames stay as they are.

    Attributes
    ----------
    num_features : int
        Of what `forward` returns: `count`, or `dim` where that is 0.

    Raises
    ------
    ValueError
        Where the count is another number.

    References
    ----------
    Rahimi and Recht, Weighted Sums of Random Kitchen Sinks, NIPS 2008.

    Example
    -------
    >>> RandomFeatures(dim=4, count=16)(torch.randn(2, 10, 4)).shape
    torch.Size([2, 10, 16])
    """

    def __init__(self, dim, count):
        super().__init__()
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(
                f"critic_projections is {count!r}: expected a whole number, 0 or more."
            )
        self.num_features = count or dim
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(count, dim, generator=generator) / math.sqrt(dim)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", -torch.randn(count, generator=generator).abs())

    def forward(self, frames):
        """Return the features of frames, (..., num_features), float32; frames are (..., dim)."""
        if not len(self.bias):
            return frames
        with torch.autocast(frames.device.type, enabled=False):
            return F.linear(frames.float(), self.weight, self.bias).relu()


class Standardise(nn.Module):
    """Shift and scale each feature to mean 0 and variance 1, without affine parameters.

    Training mode uses the statistics of the rows of all ranks, through which gradients flow;
    evaluation mode uses the running ones. These are the plain average of the first batches and
    a moving average later.

    Arguments
    ---------
    num_features : int
        Size of the last dimension.
    momentum : float
        Weight of the newest batch in the moving average.

    Example
    -------
    >>> rows = 5 + 3 * torch.randn(50, 4)
    >>> out = Standardise(4)(rows)
    >>> out.shape
    torch.Size([50, 4])
    >>> bool((out.mean(0).abs() < 1e-5).all())
    True
    """

    min_variance = 1e-10  # Far below any feature in use: scaling stays without effect.

    def __init__(self, num_features, momentum=0.01):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))

    def forward(self, x, update=False):
        """Standardise rows.

        Arguments
        ---------
        x : torch.Tensor
            Shape (rows, num_features), valid rows only.
        update : bool
            In training mode, whether this batch enters the running statistics.

        Returns
        -------
        torch.Tensor
            Shape (rows, num_features).
        """
        mean, var = self.running_mean, self.running_var
        if self.training:
            count = _num_rows(x)
            mean = all_reduce_sum(x.sum(0)) / count
            var = all_reduce_sum((x - mean).square().sum(0)) / count
            if update:
                self.num_updates += 1
                weight = newest_weight(self.num_updates, self.momentum)
                self.running_mean.lerp_(mean.detach(), weight)
                self.running_var.lerp_(var.detach(), weight)
        return (x - mean) * var.clamp_min(self.min_variance).rsqrt()


def newest_weight(num_updates, momentum):
    """Return the weight of the newest batch in an average: plain at first, a moving one later."""
    return num_updates.float().reciprocal().clamp(min=momentum)


class ResidualMLP(nn.Module):
    """A linear map plus a perceptron of one hidden layer: a linear relation is fitted quickly.

    Arguments
    ---------
    in_dim : int
    hidden_dim : int
    out_dim : int

    Example
    -------
    >>> ResidualMLP(4, 16, 3)(torch.randn(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, in_dim, hidden_dim, out_dim):
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, out_dim)
        )

    def forward(self, x):
        """Map (..., in_dim) to (..., out_dim)."""
        return self.linear(x) + self.mlp(x)


class MICritic(nn.Module):
    """What the critics share: standardised float32 inputs and the choice of the mode.

    A critic defines `_estimate(x, y, groups)` on standardised rows, and `_objective(x, y, groups)`
    where that is not the estimate.

    Arguments
    ---------
    x_dim : int
        Features of x.
    y_dim : int
        Features of y.
    """

    updating_modes = ("objective",)

    def __init__(self, x_dim, y_dim):
        super().__init__()
        self.standardise_x = Standardise(x_dim)
        self.standardise_y = Standardise(y_dim)

    def forward(self, x, y, groups=None, mode="estimate"):
        """Estimate the mutual information of x and y, or score the critic's fit.

        Arguments
        ---------
        x : torch.Tensor
            Shape (rows, x_dim), valid rows only. Ranks may hold different numbers of rows.
        y : torch.Tensor
            Shape (rows, y_dim), row by row the partner of x.
        groups : torch.Tensor or GroupIndex, optional
            Shape (rows,), integers: the utterance of each row. A negative never comes from the
            row's own group. Without it each row is a group.
        mode : str
            "estimate" or "objective" (see the module's docstring).

        Returns
        -------
        torch.Tensor
            Scalar, nats; its mean over the ranks is the value of the global batch.

        Raises
        ------
        ValueError
            Where there is no negative pair, or the mode or the shapes are not as above.
        """
        scores = {"estimate": self._estimate, "objective": self._objective}
        if mode not in scores:
            raise ValueError(f"{type(self).__name__}: mode is {mode!r}, not one of {[*scores]}")
        named = groups.own if isinstance(groups, GroupIndex) else groups
        if len(x) != len(y) or (named is not None and named.shape != x.shape[:1]):
            shapes = [tuple(t.shape) for t in (x, y, named) if t is not None]
            raise ValueError(f"{type(self).__name__}: x, y and groups differ in rows: {shapes}")
        update = mode in self.updating_modes
        with torch.autocast(x.device.type, enabled=False):
            x = self.standardise_x(x.float(), update)
            y = self.standardise_y(y.float(), update)
            return scores[mode](x, y, groups)

    def _objective(self, x, y, groups):
        return self._estimate(x, y, groups)


class BaseCLUB(MICritic):
    """Contrastive log-ratio upper bound, arXiv 2006.12013, with a diagonal Gaussian q(y|x).

    The estimate is the mean of log q(y|x) over the rows minus its mean over all pairs of rows of
    different groups. For a Gaussian the latter needs only the first two moments of y over the
    other groups, so its cost is linear in the rows. With the exact q of d dimensions with
    correlation rho, MI = -d/2 ln(1 - rho^2), it converges to d (exp(2 MI / d) - 1), which is
    larger; with a poor q it is no bound. So watch the likelihood beside it.

    The objective is the likelihood, its constant included: a q that ignores x reaches
    -y_dim / 2 (1 + ln(2 pi)).

    A subclass defines `_conditional(x)`, which returns the mean and the log-variance of q for
    standardised rows, (rows, y_dim) each.

    Arguments
    ---------
    x_dim : int
        Features of x, the condition.
    y_dim : int
        Features of y.
    """

    @torch.no_grad()
    def log_ratio(self, x, y, marginal_mean, marginal_variance):
        """Return what each x tells of its y: log q(y|x) minus the log of a Gaussian marginal.

        Arguments
        ---------
        x : torch.Tensor
            Shape (rows, x_dim).
        y : torch.Tensor
            Shape (rows, y_dim).
        marginal_mean, marginal_variance : torch.Tensor
            Of y before it is standardised, shape (y_dim,).

        Returns
        -------
        torch.Tensor
            Shape (rows,), nats. The scale of y does not matter.
        """
        ends = torch.stack([marginal_mean, marginal_mean + marginal_variance.sqrt()])
        mean, end = self.standardise_y(ends.float())
        x, y = self.standardise_x(x.float()), self.standardise_y(y.float())
        marginal = _log_gaussian(y, mean, 2 * (end - mean).log())
        return _log_gaussian(y, *self._conditional(x)) - marginal

    def _objective(self, x, y, groups):
        return _log_gaussian(y, *self._conditional(x)).sum() * _row_weight(x)

    def _estimate(self, x, y, groups):
        mean, log_variance = self._conditional(x)
        index = index_groups(x, groups)
        positive = _log_gaussian(y, mean, log_variance).sum() * _row_weight(x)
        negative = self._negative(y, mean, log_variance, index)
        share = index.num_others[index.own] / index.num_pairs  # of each row in the pairs of all
        return positive - (share * negative).sum() * world_size()

    def _negative(self, y, mean, log_variance, index):
        """Return each row's mean of log q(y|x) over the y of all other groups, (rows,)."""
        sums = all_reduce_sum(
            y.new_zeros(len(index.sizes), 2 * y.shape[1]).index_add(
                0, index.own, torch.cat([y, y.square()], dim=1)
            )
        )
        others = (sums.sum(0) - sums) / index.num_others.unsqueeze(1)
        first, second = repeat_rows(others, index.own).chunk(2, dim=1)
        error = second - 2 * mean * first + mean.square()
        return _log_gaussian_of_error(error, log_variance)


class CLUB(BaseCLUB):
    """CLUB (see `BaseCLUB`) whose q is a network that is trained by its likelihood.

    A scaled tanh keeps its log-variance between -8 and 4.

    Arguments
    ---------
    x_dim : int
        Features of x, the condition.
    y_dim : int
        Features of y.
    hidden_dim : int
        Hidden units of the mean's and of the log-variance's network.

    Example
    -------
    >>> critic = CLUB(x_dim=6, y_dim=4, hidden_dim=16)
    >>> x, y, groups = torch.randn(12, 6), torch.randn(12, 4), torch.arange(12) // 3
    >>> critic(x, y, groups).shape
    torch.Size([])
    >>> critic(x, y, mode="objective").shape
    torch.Size([])
    """

    centre, half_width = -2.0, 6.0  # of the log-variance's range

    def __init__(self, x_dim, y_dim, hidden_dim=512):
        super().__init__(x_dim, y_dim)
        self.mean = ResidualMLP(x_dim, hidden_dim, y_dim)
        self.raw_log_variance = ResidualMLP(x_dim, hidden_dim, y_dim)

    def _conditional(self, x):
        """Return mean and log-variance of q(y|x), (rows, y_dim) each."""
        # Shifted so that the network's 0 is the log-variance 0 of a standardised y.
        raw = self.raw_log_variance(x) / self.half_width - math.atanh(self.centre / self.half_width)
        return self.mean(x), self.centre + self.half_width * torch.tanh(raw)


class LinearCLUB(BaseCLUB):
    """CLUB (see `BaseCLUB`) whose q is linear, and at each moment the best that there is.

    q(y|x) = N(W x, diag(v)): W is the ridge regression of y on x, and v what it leaves of y, both
    from moving averages of the rows' second moments. So the critic has nothing to train by
    gradient and does not lag behind the encoders as a network does. The inverse covariance of x
    makes it see features as well that vary little, which a probe behind the encoder can rescale.

    The objective is the likelihood under q before the batch has entered the averages.

    Arguments
    ---------
    x_dim : int
        Features of x, the condition.
    y_dim : int
        Features of y.
    momentum : float
        Weight of the newest batch in the moving averages.
    ridge : float
        Added to the variance of each feature of x, which is 1.

    Example
    -------
    >>> critic = LinearCLUB(x_dim=6, y_dim=4)
    >>> x, groups = torch.randn(120, 6), torch.arange(120) // 3
    >>> y = x[:, :4] + torch.randn(120, 4)
    >>> before, after = (critic(x, y, mode="objective").item() for _ in range(2))
    >>> before < after and critic(x, y, groups).item() > 1
    True
    """

    min_variance = 0.01  # of what is left of a standardised y

    def __init__(self, x_dim, y_dim, momentum=0.1, ridge=0.01):
        super().__init__(x_dim, y_dim)
        self.momentum = momentum
        self.ridge = ridge
        self.register_buffer("covariance", torch.eye(x_dim))
        self.register_buffer("cross_covariance", torch.zeros(x_dim, y_dim))
        self.register_buffer("weight", torch.zeros(x_dim, y_dim))
        self.register_buffer("variance", torch.ones(y_dim))

    def _conditional(self, x):
        """Return mean and log-variance of q(y|x), (rows, y_dim) each."""
        return x @ self.weight, self.variance.log().expand(len(x), -1)

    def _objective(self, x, y, groups):
        log_likelihood = super()._objective(x, y, groups)
        if self.training:
            self._fit(x.detach(), y.detach())
        return log_likelihood

    def _fit(self, x, y):
        """Let standardised rows (rows, x_dim), (rows, y_dim) enter the averages; fit q to them."""
        moments = all_reduce_sum(x.T @ torch.cat([x, y], dim=1)) / _num_rows(x)
        newest = newest_weight(self.standardise_x.num_updates, self.momentum)
        self.covariance.lerp_(moments[:, : x.shape[1]], newest)
        self.cross_covariance.lerp_(moments[:, x.shape[1] :], newest)
        diagonal = torch.full_like(self.covariance[0], self.ridge).diag()
        # The plain solver asks the device whether it went well.
        factor, _ = torch.linalg.cholesky_ex(self.covariance + diagonal)
        self.weight.copy_(torch.cholesky_solve(self.cross_covariance, factor))
        explained = self.weight * (2 * self.cross_covariance - self.covariance @ self.weight)
        self.variance.copy_((1 - explained.sum(0)).clamp_min(self.min_variance))


def _log_gaussian(y, mean, log_variance):
    """Return log N(y; mean, exp(log_variance)), summed over the last dimension."""
    return _log_gaussian_of_error((y - mean).square(), log_variance)


def _log_gaussian_of_error(squared_error, log_variance):
    per_dim = squared_error * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
    return -0.5 * per_dim.sum(-1)


def repeat_rows(x, rows):
    """Return rows of x, each as often as it is named, shape (*rows.shape, features).

    On a CPU, the gradient of plain indexing adds up repeated rows in the order in which the threads
    come to them; this one adds them in turn, so that a run can be repeated to the bit.

    Arguments
    ---------
    x : torch.Tensor
        Shape (n, features).
    rows : torch.Tensor
        Integers in [0, n), of any shape.

    Example
    -------
    >>> repeat_rows(torch.eye(2), torch.tensor([[0, 1, 1]])).shape
    torch.Size([1, 3, 2])
    """
    return x.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _num_rows(x):
    return all_reduce_sum(torch.full((), len(x), device=x.device))


def _row_weight(x):
    """Return the weight of a row in this rank's share of a mean over the rows of all ranks."""
    return world_size() / _num_rows(x)
