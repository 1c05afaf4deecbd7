"""SSPS."""

import pytest
import torch
from torch.nn import functional as F

from lobes.distributed import SharedCounts
from lobes.losses import nt_xent
from lobes.methods import ssps
from lobes.methods.ssps import SSPS
from recipes.common.units import kmeans
from recipes.common.units.kmeans import fit_kmeans
from tests.lobes.methods.test_moco import small_encoder
from tests.lobes.methods.test_simclr import views_of
from tests.training.test_device_use import reads_of

ONE = SharedCounts(rows=1)["rows"]


def made(**changes):
    """Return a method whose memory holds four utterances of each of six places on a circle."""
    settings = {"positives_from": 0.5, "prototypes": 6, "queue_size": 40, **changes}
    method = SSPS(small_encoder(embedding_dim=2), fit_kmeans, **settings)
    for place in range(24):
        angle = torch.tensor(2.0 * torch.pi * (place % 6) / 6 + 0.01 * place)
        reference = torch.stack([angle.cos(), angle.sin()])[None]
        # The views tell which place they are of.
        view = torch.tensor([[1.0, float(place % 6)]])
        method.memory.add(ONE, references=reference, views=view, members=torch.zeros(1, 1))
    return method


def test_positives_are_of_the_place_beside_ones_own():
    method = made(neighbours=2)
    method.begin_epoch(7, 10, seed=1, resumed=False)
    assert method.draws and method.count == 6
    own = method.prototypes_of(method.memory.references[:6])
    drawn = [method.draw_positives(own, 6 * ONE, seed) for seed in range(30)]
    assert all(found.all() for _, found in drawn)
    places = torch.stack([views[:, 1] for views, _ in drawn])
    steps = (places - torch.arange(6)) % 6
    assert set(steps.unique().tolist()) == {1.0, 5.0}  # never one's own, both neighbours
    again, _ = method.draw_positives(own, 6 * ONE, 0)
    assert torch.equal(again, drawn[0][0])


def test_every_utterance_of_the_place_is_drawn_as_often():
    method = made()
    method.memory.views[:24, 0] = torch.arange(24.0)  # which utterance it is
    method.begin_epoch(7, 10, seed=1, resumed=False)
    references = method.memory.references[:1].expand(400, 2)
    drawn, _ = method.draw_positives(method.prototypes_of(references), 400 * ONE, 5)
    counts = drawn[:, 0].long().bincount()
    assert len(counts[counts > 0]) == 4 and counts[counts > 0].min() > 60


def test_positives_are_drawn_from_its_epoch_on_and_remembered_one_before():
    method = made(positives_from=0.5)
    seen = []
    for epoch in range(1, 11):
        method.begin_epoch(epoch, 10, seed=1, resumed=False)
        seen.append((method.remembers, method.draws))
    assert seen == [(False, False)] * 4 + [(True, False)] + [(True, True)] * 5


def test_the_loss_is_nt_xent_with_what_was_drawn_and_remembers_the_batch():
    method = made()
    method.begin_epoch(7, 10, seed=1, resumed=False)
    references = method.memory.references[:3].clone()
    projections = torch.randn(6, 2)
    views = views_of(projections, taught=references, seed=4)
    drawn, _ = method.draw_positives(method.prototypes_of(references), 3 * ONE, 4)
    loss = method(views)
    torch.testing.assert_close(loss, nt_xent(projections[:3], drawn, 0.03))
    assert views.figures["drawn_positives"] == 1.0
    assert torch.equal(method.memory.views[24:27], projections[3:])
    plain = method.eval()(views_of(projections))
    torch.testing.assert_close(plain, nt_xent(*projections.chunk(2), 0.03))


def test_with_too_few_remembered_the_other_crop_is_the_positive():
    method = SSPS(small_encoder(), fit_kmeans, positives_from=0.0, prototypes=6, queue_size=10)
    method.begin_epoch(1, 4, seed=1, resumed=False)
    assert not method.draws and method.remembers
    projections = torch.randn(6, 6)
    views = views_of(projections, taught=F.normalize(torch.randn(3, 6), dim=1))
    torch.testing.assert_close(method(views), nt_xent(*projections.chunk(2), 0.03))


def test_references_are_of_an_encoder_whose_averages_stay_as_they_are():
    encoder = small_encoder().train()
    method = SSPS(encoder, fit_kmeans, positives_from=0.0, prototypes=6, queue_size=10)
    method.begin_epoch(1, 4, seed=1, resumed=False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    references = method.teach(encoder, None, (torch.randn(3, 16000), torch.ones(3)))
    torch.testing.assert_close(references.norm(dim=1), torch.ones(3))
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert encoder.training and not references.requires_grad


def test_what_was_found_at_the_start_of_an_epoch_is_in_a_checkpoint():
    first, second = made(), made()
    first.begin_epoch(7, 10, seed=1, resumed=False)
    second.memory.references.zero_()
    second.load_state_dict(first.state_dict())
    second.begin_epoch(7, 10, seed=1, resumed=True)
    assert second.draws and second.count == first.count
    references = first.memory.references[:5]
    for method in (first, second):
        method.drawn = method.draw_positives(method.prototypes_of(references), 5 * ONE, 3)[0]
    assert torch.equal(first.drawn, second.drawn)


def test_drawing_reads_nothing_from_the_device():
    method = made()
    method.begin_epoch(7, 10, seed=1, resumed=False)
    references = method.memory.references[:5]

    def draw():
        method.draw_positives(method.prototypes_of(references), 5 * ONE, 3)

    assert reads_of(draw) == {}


def test_positives_are_the_same_in_bfloat16():
    torch.manual_seed(0)
    method = SSPS(small_encoder(embedding_dim=32), fit_kmeans, prototypes=100, queue_size=400)
    # Much in common, as embeddings have: cosines differ little.
    references = F.normalize(torch.randn(400, 32) + 4, dim=1)
    views = torch.randn(400, method.memory.views.shape[1])
    method.memory.add(400 * ONE, references=references, views=views, members=views[:, :1])
    method.begin_epoch(9, 10, seed=1, resumed=False)
    expected = method.draw_positives(method.prototypes_of(references), 400 * ONE, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.draw_positives(method.prototypes_of(references), 400 * ONE, 2)
    assert all(map(torch.equal, found, expected))


def test_the_memory_knows_the_prototype_of_each_utterance(monkeypatch):
    monkeypatch.setattr(ssps, "CHUNK", 13)  # a few rows at a time
    method = made()
    method.begin_epoch(7, 10, seed=1, resumed=False)
    taught = F.normalize(torch.randn(3, 2), dim=1)
    method(views_of(torch.randn(6, 2), taught=taught, seed=4))
    known = method.memory.references[: method.memory.filled]
    expected = (known @ method.centres[: method.count].T).argmax(1)
    assert len(known) == 27 and torch.equal(method.memory.members[:27, 0].long(), expected)


@pytest.mark.parametrize("name", ["prototypes", "neighbours", "queue_size"])
def test_what_is_no_count_is_refused(name):
    for value in (0, 2.5, "x", True):
        with pytest.raises(ValueError, match=f"{name} is .*: expected a whole number, . or more"):
            made(**{name: value})


def test_prototypes_are_of_all_that_is_remembered(monkeypatch):
    """The last rows of a pass, fewer than there are prototypes, are others in each pass."""
    monkeypatch.setattr(kmeans, "FIRST_MINIBATCH", 50)
    monkeypatch.setattr(kmeans, "MINIBATCH", 25)
    rows = torch.randn(65, 4)
    rows[50:] += 30
    centres = kmeans.fit_kmeans(lambda: [rows], 25, seed=0, passes=10)
    assert not (centres.mean(1) > 15).any()
    passes = ssps._passes(rows, seed=0)
    centres = kmeans.fit_kmeans(lambda: next(passes), 25, seed=0, passes=10)
    assert (centres.mean(1) > 15).any()

    # So it is where the method asks for its prototypes
    seen, method = [], made()

    def cluster(rows, count, seed, device):
        seen.extend(torch.cat(list(rows())) for _ in range(3))
        return fit_kmeans(lambda: [seen[0]], count, seed, device=device)

    method.cluster = cluster
    method.find_prototypes(seed=1)
    assert not torch.equal(seen[1], seen[0]) and not torch.equal(seen[2], seen[1])
    assert torch.equal(seen[1].sort(0).values, seen[0].sort(0).values)
