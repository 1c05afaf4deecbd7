"""SimCLR, and what all methods share."""

import pytest
import torch
from torch import nn

from lobes.distributed import SharedCounts
from lobes.losses import nt_xent
from lobes.methods.base import UtteranceMethod, Views, move_average, rising_momentum, teacher_of
from lobes.methods.memory import Memory
from lobes.methods.simclr import SimCLR


def views_of(projections, **more):
    """Return the Views of projections: of the first crops, then of the second."""
    given = {"embeddings": None, "short": None, "taught": None, **more}
    return Views(projections=projections, counts=SharedCounts(rows=len(projections) // 2), **given)


def test_simclr_is_nt_xent_of_the_projections():
    projections = torch.randn(10, 6)
    loss = SimCLR(0.2)(views_of(projections))
    torch.testing.assert_close(loss, nt_xent(*projections.chunk(2), 0.2))


@pytest.mark.parametrize("temperature", [0, -1, "hot", float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature is .*: expected a number above 0"):
        SimCLR(temperature)


def test_a_teacher_is_a_moving_average_that_no_gradient_reaches():
    module = nn.Linear(3, 2)
    teacher = teacher_of(module)
    assert not any(p.requires_grad for p in teacher.parameters())
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    for step in range(5):
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.add_(step)
                expected[name] = 0.9 * expected[name] + 0.1 * p.detach()
        move_average(teacher, module, 0.9)
    for name, p in teacher.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])


def test_a_momentum_rises_from_its_start_to_one():
    rising = [rising_momentum(0.996, progress / 10) for progress in range(11)]
    assert rising[0] == pytest.approx(0.996) and rising[-1] == 1.0
    assert rising == sorted(rising)


def test_a_memory_holds_the_newest_rows_in_the_place_of_the_oldest():
    memory, added = Memory(5, keys=1), []
    for batch in (3, 1, 4, 9, 2):
        values = torch.arange(len(added), len(added) + batch).float()[:, None]
        added += values.flatten().tolist()
        memory.add(SharedCounts(rows=batch)["rows"], keys=values)
        newest = sorted(memory.keys[: memory.filled].flatten().tolist())
        assert newest == added[-5:] and memory.filled == min(5, len(added))


def test_a_memory_goes_on_where_a_checkpoint_left_it():
    first, second = Memory(5, keys=1), Memory(5, keys=1)
    first.add(SharedCounts(rows=3)["rows"], keys=torch.ones(3, 1))
    second.load_state_dict(first.state_dict())
    for memory in (first, second):
        memory.add(SharedCounts(rows=4)["rows"], keys=torch.full((4, 1), 2.0))
    assert torch.equal(first.keys, second.keys) and second.filled == 5


def test_a_method_without_a_memory_changes_nothing():
    method = UtteranceMethod()
    assert method.teach(None, None, None) is None and method.problem({}) is None
    assert not method.state_dict()
