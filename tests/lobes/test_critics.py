"""The critics against closed forms, slow loops and an exact critic, and over two ranks."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hyperpyyaml import load_hyperpyyaml
from sklearn.linear_model import Ridge
from torch.distributions import Normal

from lobes.critics.club import CLUB, LinearCLUB, RandomFeatures, Standardise, repeat_rows
from lobes.critics.groups import GroupIndex
from lobes.critics.infonce import InfoNCE
from lobes.critics.pseudo_speakers import PseudoSpeakerCritic
from recipes.common.training.run import leave_together
from tests.lobes.reference_critics import MINE, SampledCLUB, sample_negatives

DIM = 20
CRITICS = [CLUB, SampledCLUB, InfoNCE, MINE]
LOWER_BOUNDS = [InfoNCE, MINE]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def correlation(mi, dim=DIM):
    """Return the correlation of each of `dim` pairs of Gaussians that share `mi` nats in all."""
    return math.sqrt(1 - math.exp(-2 * mi / dim))


def club_limit(mi, dim=DIM):
    return dim * (math.exp(2 * mi / dim) - 1)


def correlated(mi, rows, dim=DIM):
    x, rho = torch.randn(rows, dim), correlation(mi, dim)
    return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(rows, dim)


def grouped_rows(rho, groups=8, rows=16, dim=DIM):
    """Return rows of which each group shares one y, as frames share their utterance's."""
    y = torch.randn(groups, dim).repeat_interleave(rows, 0)
    x = rho * y + math.sqrt(1 - rho**2) * torch.randn(groups * rows, dim)
    return x, y, torch.arange(groups).repeat_interleave(rows)


def unequal_batch(x_dim=6, y_dim=4):
    groups = torch.tensor([5, 5, 9, 2, 9, 9, 9, 2, 5, 9, 7])
    return 3 + torch.randn(len(groups), x_dim), torch.randn(len(groups), y_dim) / 5, groups


def raw_log_variance(critic, value):
    """Return what the network must give for a log-variance of `value`."""
    centre, half = critic.centre, critic.half_width
    return half * (math.atanh((value - centre) / half) + math.atanh(centre / half))


def exact_club(rho, dim=DIM):
    """Return a CLUB whose q is the true conditional of correlated Gaussians."""
    critic = CLUB(dim, dim, hidden_dim=1).eval()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        critic.mean.linear.weight.copy_(rho * torch.eye(dim))
        critic.raw_log_variance.linear.bias.fill_(raw_log_variance(critic, math.log(1 - rho**2)))
    return critic


def log_ratio(rho, x, y):
    """Return log p(y|x) - log p(y) of correlated Gaussians for all pairs, (rows, rows)."""
    joint = Normal(rho * x.unsqueeze(1), math.sqrt(1 - rho**2)).log_prob(y)
    return (joint - Normal(0.0, 1.0).log_prob(y)).sum(-1)


class ExactInfoNCE(InfoNCE):
    """InfoNCE that scores with the true log-ratio."""

    def __init__(self, rho):
        super().__init__(DIM, DIM, hidden_dim=1)
        self.rho = rho

    def _scores(self, x, y, rows):
        return log_ratio(self.rho, x, y)


def train(critic, mi, steps, batch):
    optimizer = torch.optim.Adam(critic.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-critic(*correlated(mi, batch), mode="objective")).backward()
        optimizer.step()
        schedule.step()
    return critic.eval()


@torch.no_grad()
def mean_over_fresh_batches(*readings, mi, batches=40, rows=512):
    """Return the mean of each function of (x, y) over the same unseen batches."""
    values = []
    for _ in range(batches):
        x, y = correlated(mi, rows)
        values.append([float(reading(x, y)) for reading in readings])
    return torch.tensor(values).mean(0).tolist()


def likelihood_of(critic):
    """Return the mean of log q(y|x) as a function of (x, y)."""
    return partial(critic, mode="objective")


@pytest.mark.long
@pytest.mark.parametrize("mi", [2, 4, 6, 8])
def test_trained_club_reads_its_closed_form(mi):
    critic = train(CLUB(DIM, DIM, 64), mi, steps=500, batch=256)
    estimate, likelihood = mean_over_fresh_batches(critic, likelihood_of(critic), mi=mi)
    assert estimate == pytest.approx(club_limit(mi), rel=0.15)
    # The expectation of log p(y|x) is that of log p(y) plus the mutual information.
    assert likelihood == pytest.approx(mi - DIM / 2 * (1 + math.log(2 * math.pi)), abs=0.4)


def fit_linear(critic, rows_of, batches=200):
    """Let a LinearCLUB see batches of rows; return it in eval mode."""
    for _ in range(batches):
        critic(*rows_of(), mode="objective")
    return critic.eval()


@pytest.mark.parametrize("mi", [2, 4, 6, 8])
def test_linear_club_reads_its_closed_form(mi):
    critic = fit_linear(LinearCLUB(DIM, DIM), lambda: correlated(mi, 512))
    (reading,) = mean_over_fresh_batches(critic, mi=mi)
    assert reading == pytest.approx(club_limit(mi), rel=0.15)


def test_linear_club_reads_zero_of_independent_rows():
    critic = fit_linear(LinearCLUB(DIM, DIM), lambda: correlated(0, 512))
    (reading,) = mean_over_fresh_batches(critic, mi=0)
    assert abs(reading) < 0.1


def test_linear_club_is_the_ridge_regression_of_what_it_saw():
    batches = [
        (x, x @ torch.arange(24.0).view(6, 4) + torch.randn(64, 4)) for x in torch.randn(5, 64, 6)
    ]
    critic = LinearCLUB(6, 4, ridge=0.1)  # of five batches, no average moves yet
    for x, y in batches:
        critic(x, y, mode="objective")
    standard = [[(t - t.mean(0)) / t.std(0, unbiased=False) for t in pair] for pair in batches]
    x, y = (torch.cat(parts).double().numpy() for parts in zip(*standard, strict=True))
    ridge = Ridge(alpha=0.1 * len(x), fit_intercept=False).fit(x, y)
    torch.testing.assert_close(
        critic.weight.numpy(), ridge.coef_.T, check_dtype=False, atol=1e-4, rtol=1e-3
    )
    left = ((y - ridge.predict(x)) ** 2).mean(0)
    torch.testing.assert_close(
        critic.variance.numpy(), left, check_dtype=False, atol=1e-4, rtol=1e-3
    )


def test_linear_club_sees_features_that_vary_little():
    """What tells of y is a difference of two features, small beside what they share."""

    def rows():
        y, shared = torch.randn(512, 1), torch.randn(512, 1)
        return torch.cat([shared + 0.2 * y, shared - 0.2 * y], 1), y

    critic = fit_linear(LinearCLUB(2, 1, ridge=1e-4), rows)
    assert critic.variance.item() < 0.05


def test_linear_club_forgets_what_no_longer_holds():
    critic = fit_linear(LinearCLUB(DIM, DIM), lambda: correlated(8, 512)).train()
    fit_linear(critic, lambda: correlated(0, 512))
    (reading,) = mean_over_fresh_batches(critic, mi=0)
    assert abs(reading) < 0.1


@pytest.mark.long
@pytest.mark.parametrize("mi", [2, 4, 6, 8])
def test_trained_infonce_reads_what_the_exact_critic_reads(mi):
    critic = train(InfoNCE(DIM, DIM, 64), mi, steps=500, batch=128)
    exact = ExactInfoNCE(correlation(mi)).eval()
    estimate, attainable = mean_over_fresh_batches(critic, exact, mi=mi, batches=10)
    assert estimate == pytest.approx(attainable, rel=0.1)
    assert estimate < min(mi, math.log(512)) * 1.02


@pytest.mark.long
@pytest.mark.parametrize("mi", [2, 4, 6, 8])
def test_trained_mine_is_a_lower_bound_and_not_a_loose_one(mi):
    critic = train(MINE(DIM, DIM, 64), mi, steps=600, batch=256)
    (estimate,) = mean_over_fresh_batches(critic, mi=mi)
    assert 0.65 * mi < estimate < 1.05 * mi


@pytest.mark.long
@pytest.mark.parametrize("kind", CRITICS)
def test_independent_rows_read_zero(kind):
    critic = train(kind(DIM, DIM, 64), mi=0, steps=500, batch=256)
    (estimate,) = mean_over_fresh_batches(critic, mi=0)
    assert abs(estimate) < 0.1


@pytest.mark.parametrize("mi", [2, 8])
def test_exact_q_reads_the_closed_forms(mi):
    critic = exact_club(correlation(mi))
    estimate, likelihood = mean_over_fresh_batches(critic, likelihood_of(critic), mi=mi)
    assert estimate == pytest.approx(club_limit(mi), rel=0.02)
    assert likelihood == pytest.approx(mi - DIM / 2 * (1 + math.log(2 * math.pi)), abs=0.1)


def test_negatives_of_the_own_group_would_bias_the_estimate():
    rho, groups, rows = 0.7, 8, 16
    critic = exact_club(rho)
    batches = [grouped_rows(rho, groups, rows) for _ in range(200)]
    with torch.no_grad():
        named = sum(critic(*batch) for batch in batches) / len(batches)
        ignored = sum(critic(*batch[:2]) for batch in batches) / len(batches)
    limit = DIM * rho**2 / (1 - rho**2)
    assert named == pytest.approx(limit, rel=0.04)
    # A negative of the own group has the row's own y and counts 0.
    share = 1 - (rows - 1) / (groups * rows - 1)
    assert ignored / named == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("given", [True, False])
def test_club_equals_a_loop_over_all_pairs_of_different_groups(given):
    x, y, groups = unequal_batch()
    critic = CLUB(6, 4, 16)
    likelihood = likelihood_of(critic)
    likelihood(x, y)
    critic.eval()
    names = groups.tolist() if given else range(len(x))
    pairs = [(i, j) for i, g in enumerate(names) for j, h in enumerate(names) if g != h]
    negative = torch.stack([likelihood(x[i : i + 1], y[j : j + 1]) for i, j in pairs])
    expected = likelihood(x, y) - negative.mean()
    torch.testing.assert_close(critic(x, y, groups if given else None), expected)


@pytest.mark.parametrize("kind", [CLUB, LinearCLUB])
def test_the_gradient_of_club_is_that_of_a_loop_over_all_pairs(kind):
    x, y, groups = unequal_batch()
    critic = kind(6, 4) if kind is LinearCLUB else kind(6, 4, 16)
    likelihood = likelihood_of(critic)
    likelihood(x, y)
    critic.eval()
    own, slow = ([v.clone().requires_grad_() for v in (x, y)] for _ in range(2))
    critic(*own, groups).backward()
    names = groups.tolist()
    pairs = [(i, j) for i, g in enumerate(names) for j, h in enumerate(names) if g != h]
    negative = torch.stack([likelihood(slow[0][i : i + 1], slow[1][j : j + 1]) for i, j in pairs])
    positive = torch.stack(
        [likelihood(slow[0][i : i + 1], slow[1][i : i + 1]) for i in range(len(x))]
    )
    (positive.mean() - negative.mean()).backward()
    for found, expected in zip(own, slow, strict=True):
        assert expected.grad.abs().max() > 1e-4
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("given", [True, False])
def test_lower_bounds_equal_loops_over_pairs_of_different_groups(given):
    x, y, groups = unequal_batch()
    infonce, mine = InfoNCE(6, 4, 16).eval(), MINE(6, 4, 16).eval()
    mine.load_state_dict(infonce.state_dict())
    scores, names = infonce._scores(x, y, None), groups.tolist() if given else range(len(x))
    exps = [
        [scores[i, j].exp() for j, h in enumerate(names) if g != h] for i, g in enumerate(names)
    ]
    own = scores.diag()
    rows = [own[i] - torch.stack([own[i].exp(), *row]).mean().log() for i, row in enumerate(exps)]
    bound = own.mean() - torch.stack(sum(exps, [])).mean().log()
    groups = groups if given else None
    torch.testing.assert_close(infonce(x, y, groups), torch.stack(rows).mean())
    torch.testing.assert_close(mine(x, y, groups), bound)


def test_log_likelihood_is_the_density_with_its_constant():
    x, y, _ = unequal_batch()
    critic = CLUB(6, 4, 16).eval()
    mean, log_variance = critic._conditional(x)
    expected = Normal(mean, (log_variance / 2).exp()).log_prob(y).sum(1).mean()
    torch.testing.assert_close(critic(x, y, mode="objective"), expected)


def test_sampled_rows_are_uniform_over_the_other_groups():
    x, _, groups = unequal_batch()
    index = GroupIndex(groups, x.device)
    drawn = sample_negatives(index, 20000)
    shares = torch.stack([row.bincount(minlength=len(x)) for row in drawn]) / 20000
    others = groups.unsqueeze(1) != groups
    expected = others / others.sum(1, keepdim=True)
    assert (shares[~others] == 0).all()
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_sampled_club_is_unbiased_for_all_pairs():
    x, y, groups = unequal_batch()
    full, sampled = CLUB(6, 4, 16), SampledCLUB(6, 4, 16, num_negatives=20000)
    sampled.load_state_dict(full.state_dict())
    torch.testing.assert_close(sampled(x, y, groups), full(x, y, groups), rtol=0, atol=0.05)


def test_a_classifier_of_pseudo_speakers_learns_what_x_tells_of_them():
    torch.manual_seed(0)
    critic, x = PseudoSpeakerCritic(6, 6, 32, num_speakers=8), torch.randn(512, 6)
    told = {}
    for name, y in {"y": x.clone(), "other": x.roll(1, 0)}.items():
        optimizer = torch.optim.Adam(critic.parameters(), 0.01)
        for _ in range(150):
            optimizer.zero_grad()
            (-critic(x, y.requires_grad_(), mode="objective")).backward()
            optimizer.step()
        assert y.grad is None
        told[name] = critic.eval()(x, y).item()
        critic.train()
    clusters = critic.eval().clusters(critic.standardise_y(x)).bincount(minlength=8)
    entropy = torch.distributions.Categorical(clusters.float()).entropy().item()
    assert clusters.count_nonzero() == 8
    assert told["y"] > -0.2 * entropy and told["other"] < -0.6 * entropy


def with_a_fit(kind, x, y):
    """Return a critic of 6 and 4 features; a linear one has seen the rows, or it would read 0."""
    if kind is not LinearCLUB:
        return kind(6, 4, 16)
    critic = LinearCLUB(6, 4, ridge=1.0)  # 11 rows would determine less than that well
    critic(x.detach(), y.detach(), mode="objective")
    return critic


@pytest.mark.parametrize("kind", [CLUB, LinearCLUB, *LOWER_BOUNDS])
@pytest.mark.parametrize("scales", [(10, 1), (1, 10), (1e-3, 1e-3)])
def test_estimate_ignores_scale_and_offset(kind, scales):
    x, y, groups = unequal_batch()
    critic = with_a_fit(kind, x, y)
    moved = critic(scales[0] * x + 2 * scales[0], scales[1] * y - 3 * scales[1], groups)
    torch.testing.assert_close(moved, critic(x, y, groups), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [CLUB, LinearCLUB])
def test_shrinking_inputs_gives_no_gradient(kind):
    x, y, groups = unequal_batch()
    scale = torch.ones(2, requires_grad=True)
    with_a_fit(kind, x, y)(scale[0] * x, scale[1] * y, groups).backward()
    torch.testing.assert_close(scale.grad, torch.zeros(2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", CRITICS)
def test_only_calls_that_train_the_critic_update_its_statistics(kind):
    x, y, groups = unequal_batch()
    critic = kind(6, 4, 16)
    updates = critic.standardise_x.num_updates
    critic(x, y, groups)
    assert updates == (kind in LOWER_BOUNDS)
    before = int(updates)
    critic(x, y, groups, mode="objective")
    assert updates == before + 1
    critic.eval()(x, y, groups, mode="objective")
    assert updates == before + 1


@pytest.mark.parametrize("kind", [*CRITICS, LinearCLUB])
def test_statistics_keep_no_graph(kind):
    x, y, groups = unequal_batch()
    critic = kind(6, 4) if kind is LinearCLUB else kind(6, 4, 16)
    critic(x.requires_grad_(), y.requires_grad_(), groups, mode="objective")
    assert not any(buffer.requires_grad for buffer in critic.buffers())


def test_running_statistics_are_those_of_the_batches_seen():
    rows = 4 + 3 * torch.randn(10, 64, 5)
    standardise = Standardise(5)
    for batch in rows:
        standardise(batch, update=True)
    out = standardise.eval()(rows.flatten(0, 1))
    torch.testing.assert_close(out.mean(0), torch.zeros(5), rtol=0, atol=1e-3)
    torch.testing.assert_close(out.std(0), torch.ones(5), rtol=0, atol=0.02)


def test_log_variance_is_bounded_softly_over_a_wide_range():
    critic = CLUB(6, 4, 16)
    with torch.no_grad():
        for parameter in critic.raw_log_variance.parameters():
            parameter.zero_()
    bias = critic.raw_log_variance.linear.bias
    x = torch.randn(5, 6)
    readings = {}
    for raw in (-100.0, -5.0, -0.1, 0.0, 0.1, 3.0, 100.0):
        bias.data.fill_(raw)
        readings[raw] = float(critic._conditional(x)[1].detach().mean())
    assert readings[0.0] == pytest.approx(0, abs=1e-6)
    assert readings[-100.0] == pytest.approx(-8, abs=1e-3)
    assert readings[100.0] == pytest.approx(4, abs=1e-3)
    assert readings[-5.0] < -4 and readings[3.0] > 2
    assert (readings[0.1] - readings[-0.1]) / 0.2 == pytest.approx(1, abs=0.15)


@pytest.mark.long
@pytest.mark.parametrize("sign", [1, -1])
def test_an_encoder_that_descends_the_estimate_loses_information(sign):
    dim, angle = 5, torch.tensor(0.8, requires_grad=True)
    critic = CLUB(dim, dim, 32)
    critic_optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    encoder_optimizer = torch.optim.Adam([angle], 1e-2)

    def encode():
        y = torch.randn(128, dim)
        return angle.cos() * y + angle.sin() * torch.randn(128, dim), y

    for step in range(100):
        for _ in range(20 if step == 0 else 5):
            x, y = encode()
            critic_optimizer.zero_grad()
            (-critic(x.detach(), y, mode="objective")).backward()
            critic_optimizer.step()
        encoder_optimizer.zero_grad()
        (sign * critic(*encode())).backward()
        encoder_optimizer.step()
    before, after = math.cos(0.8) ** 2, math.cos(angle.item()) ** 2
    assert after < 0.3 * before if sign == 1 else after > 1.3 * before


@pytest.mark.parametrize("kind", CRITICS)
def test_gradients_reach_both_inputs_and_every_parameter(kind):
    x, y, groups = unequal_batch()
    x.requires_grad_(), y.requires_grad_()
    critic = kind(6, 4, 16)
    critic(x, y, groups).backward()
    assert (x.grad != 0).any(1).all() and (y.grad != 0).any(1).all()
    critic(x, y, groups, mode="objective").backward()
    assert all((p.grad != 0).any() for name, p in critic.named_parameters())


@pytest.mark.long
@pytest.mark.parametrize("kind", [CLUB, SampledCLUB, InfoNCE, MINE])
def test_gradients_can_be_repeated_to_the_bit_with_several_threads(kind):
    # 47 groups: the two threads' halves of the rows meet inside a group.
    torch.manual_seed(0)
    critic = kind(128, 128, 32)
    groups = torch.arange(47).repeat_interleave(16)
    x, y = torch.randn(len(groups), 128), torch.randn(47, 128)
    threads, gradients = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        for _ in range(20):
            torch.manual_seed(1)
            rows = y.clone().requires_grad_()
            critic(x, repeat_rows(rows, groups), groups).backward()
            gradients.add(rows.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(gradients) == 1


def test_infonce_is_at_most_the_log_of_the_rows():
    x = torch.randn(32, DIM)
    critic = ExactInfoNCE(0.9999).eval()
    assert float(critic(x, x)) == pytest.approx(math.log(32), rel=1e-3)


@pytest.mark.parametrize("kind", CRITICS)
def test_mixed_precision_leaves_the_critic_in_float32(kind):
    x, y, groups = unequal_batch()
    x, y = x.bfloat16(), y.bfloat16()
    critic = kind(6, 4, 16)
    torch.manual_seed(1)
    expected = critic(x.float(), y.float(), groups)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(critic(x, y, groups), expected)


@pytest.mark.parametrize("kind", CRITICS)
def test_a_batch_of_one_group_is_refused(kind):
    x, y, groups = unequal_batch()
    critic = kind(6, 4, 16)
    with pytest.raises(ValueError, match="at least two utterances"):
        critic(x, y, torch.zeros_like(groups))
    with pytest.raises(ValueError, match="at least two utterances"):
        critic(x[:1], y[:1])


def test_wrong_arguments_are_refused():
    x, y, groups = unequal_batch()
    critic = CLUB(6, 4, 16)
    with pytest.raises(ValueError, match="mode is 'estimat'"):
        critic(x, y, groups, mode="estimat")
    with pytest.raises(ValueError, match="differ in rows"):
        critic(x, y[:1], groups)
    with pytest.raises(ValueError, match="differ in rows"):
        critic(x, y, groups[:1])


def ranked_readings(part):
    """Return by critic and mode: the value, the inputs' gradients and the critic's gradients."""
    readings = {}
    for kind, mode in [
        (CLUB, "estimate"),
        (CLUB, "objective"),
        (LinearCLUB, "estimate"),
        (PseudoSpeakerCritic, "estimate"),
        *((k, "estimate") for k in LOWER_BOUNDS),
    ]:
        for given in (True, False):
            torch.manual_seed(0)
            x, y, groups = (t[part] for t in unequal_batch())
            x.requires_grad_(), y.requires_grad_()
            critic = with_a_fit(kind, x, y)
            value = critic(x, y, groups if given else None, mode=mode)
            value.backward()
            grads = {name: p.grad for name, p in critic.named_parameters() if p.grad is not None}
            readings[kind.__name__, mode, given] = (
                value.detach(),
                x.grad,
                torch.zeros_like(y) if y.grad is None else y.grad,
                grads,
                dict(critic.named_buffers()),
            )
    return readings


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    readings = ranked_readings(slice(0, 3) if rank == 0 else slice(3, None))
    torch.manual_seed(0)
    x, y, groups = (t[0:3] if rank == 0 else t[3:] for t in unequal_batch())
    sampled = SampledCLUB(6, 4, 16, num_negatives=20000)(x, y, groups).detach()
    torch.save((readings, sampled), folder / f"rank{rank}.pt")
    leave_together()


@pytest.mark.long
def test_two_ranks_with_unequal_rows_equal_one_process(tmp_path):
    mp.spawn(run_rank, (tmp_path,), nprocs=2)
    (first, sampled0), (second, sampled1) = (
        torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)
    )
    for key, (value, x_grad, y_grad, grads, buffers) in ranked_readings(slice(None)).items():
        mine, other = first[key], second[key]
        torch.testing.assert_close((mine[0] + other[0]) / 2, value)
        torch.testing.assert_close(torch.cat([mine[1], other[1]]) / 2, x_grad)
        torch.testing.assert_close(torch.cat([mine[2], other[2]]) / 2, y_grad)
        mean_grads = {name: (mine[3][name] + other[3][name]) / 2 for name in grads}
        torch.testing.assert_close(mean_grads, grads, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine[4], buffers)
        torch.testing.assert_close(other[4], buffers)
    torch.manual_seed(0)
    x, y, groups = unequal_batch()
    expected = SampledCLUB(6, 4, 16, num_negatives=20000)(x, y, groups).detach()
    torch.testing.assert_close((sampled0 + sampled1) / 2, expected, rtol=0, atol=0.05)


def test_yaml_builds_the_critics_alone_and_included(tmp_path):
    fragment = Path(__file__).parents[2] / "hparams" / "critic.yaml"
    with open(fragment) as f:
        alone = load_hyperpyyaml(f)
    assert alone["critic"].mean.linear.weight.shape == (192, 768)
    assert isinstance(alone["lower_bound"], InfoNCE)
    assert alone["lower_bound"].hidden_dim == 512
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"critics: !include:{fragment}\n    x_dim: 8\n    y_dim: 6\n    hidden_dim: 4\n"
        "critic: !ref <critics[critic]>\n"
    )
    with open(recipe) as f:
        included = load_hyperpyyaml(f)
    assert included["critic"].mean.linear.weight.shape == (6, 8)
    assert included["critics"]["lower_bound"].hidden_dim == 4


def test_random_features_are_rectified_projections():
    features, frames = RandomFeatures(DIM, 7), torch.randn(2, 3, DIM).bfloat16()
    found = features(frames)
    for row, frame in zip(found.flatten(0, 1), frames.float().flatten(0, 1), strict=True):
        for place, value in enumerate(row):
            slow = sum(a * b for a, b in zip(features.weight[place], frame, strict=True))
            assert value == pytest.approx(max(0.0, float(slow + features.bias[place])), abs=1e-5)
    assert torch.equal(found, RandomFeatures(DIM, 7)(frames))  # the same in each run
    assert torch.equal(RandomFeatures(DIM, 0)(frames), frames)


def test_means_of_random_features_tell_the_critic_of_correlations():
    """Of a pair of dimensions whose means and deviations are alike, the sign tells the group."""
    signs = torch.randn(400).sign()
    first, other = torch.randn(2, 400, 200)
    frames = torch.stack([first, signs[:, None] * first * 0.9 + other * 0.19**0.5], dim=-1)
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    told = {}
    for count in (0, 32):
        features = RandomFeatures(2, count)
        critic = LinearCLUB(features.num_features, 1, ridge=0.1)
        means, y = features(frames).mean(1), signs[:, None]
        critic(means[:200], y[:200], mode="objective")
        told[count] = critic.eval()(means[200:], y[200:]).item()
    assert abs(told[0]) < 0.1 and told[32] > 1


@pytest.mark.parametrize("count", [-1, 1.5, "many", None])
def test_a_number_of_random_features_that_is_none_is_refused(count):
    with pytest.raises(ValueError, match="expected a whole number, 0 or more"):
        RandomFeatures(DIM, count)
