"""The order of an epoch: the same on any number of ranks, and from any batch on."""

import pytest
import torch
from conftest import REFERENCE
from torch.utils.data import DataLoader


@pytest.fixture
def sampler(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    from sampling import EpochSampler

    return EpochSampler


def batches(sampler):
    """What a loader makes of the sampler's order."""
    return [
        b.tolist() for b in DataLoader(range(99), sampler.batch_size, sampler=sampler)
    ]


def test_an_epoch_shows_each_image_once(sampler):
    """In an order of its own for each epoch and seed, whatever the global seed is."""
    orders = set()
    for seed in (0, 1):
        for epoch in range(3):
            ours = sampler(20, 4, seed)
            ours.set_epoch(epoch)
            torch.manual_seed(len(orders))
            order = list(ours)
            torch.manual_seed(77)
            assert order == list(ours)
            assert sorted(order) == list(range(20))
            orders.add(tuple(order))
    assert len(orders) == 6


def test_the_global_stream_is_untouched(sampler):
    """Drawing an order takes nothing from it."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(sampler(20, 4, 3))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("length", [32, 24, 29, 33])
@pytest.mark.parametrize("ranks", [2, 4])
def test_batches_are_those_of_one_process(sampler, length, ranks):
    """Batch k of all ranks is batch k of one; the last one is filled by wrapping."""
    one = sampler(length, 8, seed=5)
    several = [sampler(length, 8 // ranks, 5, rank, ranks) for rank in range(ranks)]
    for epoch in (0, 3):
        for s in (one, *several):
            s.set_epoch(epoch)
        expected, parts = batches(one), [batches(s) for s in several]
        assert {len(p) for p in parts} == {len(expected)} == {one.batches}
        assert {s.batches for s in several} == {one.batches}
        for step, whole in enumerate(expected):
            shares = [p[step] for p in parts]
            assert len({len(share) for share in shares}) == 1
            union = sorted(index for share in shares for index in share)
            extra = -len(whole) % ranks
            assert union == sorted(whole + expected[0][:extra])


@pytest.mark.parametrize("ranks", [1, 2])
def test_skipping_is_slicing(sampler, ranks):
    """A resumed epoch goes on with the batches that were left; the next is whole."""
    for rank in range(ranks):
        ours = sampler(29, 4, 1, rank, ranks)
        ours.set_epoch(2)
        whole = batches(ours)
        for done in range(ours.batches + 1):
            ours.set_epoch(2)
            ours.skip(done)
            assert batches(ours) == whole[done:]
            assert len(DataLoader(range(29), 4, sampler=ours)) == len(whole) - done
        ours.set_epoch(3)
        assert len(ours) == len(list(ours)) == -(-29 // ranks)


def test_skipped_images_are_not_loaded(sampler):
    """The data set is asked for the rest alone."""
    asked = []

    class Recorded:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            asked.append(index)
            return index

    ours = sampler(10, 4, 0)
    order = list(ours)
    ours.skip(2)
    list(DataLoader(Recorded(), 4, sampler=ours))
    assert asked == order[8:]


def test_more_ranks_than_images(sampler):
    """Each rank has a batch, or the others would wait for it."""
    shares = [list(sampler(3, 2, 0, rank, 8)) for rank in range(8)]
    assert [len(share) for share in shares] == [1] * 8
    assert {index for share in shares for index in share} == {0, 1, 2}


REFUSED = [
    ((0, 4, 0), "length 0 and batch_size 4: both must be at least 1"),
    ((8, 0, 0), "length 8 and batch_size 0"),
    ((8, 4, 0, 2, 2), "rank 2 of world_size 2: ranks go from 0"),
    ((8, 4, 0, -1, 2), "rank -1 of world_size 2"),
]


@pytest.mark.parametrize(("numbers", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_numbers_out_of_range(sampler, numbers, message):
    """Refused with what was received."""
    with pytest.raises(ValueError, match=message):
        sampler(*numbers)


@pytest.mark.parametrize("count", [-1, 4])
def test_skipping_more_than_there_is(sampler, count):
    """A checkpoint of a run with another batch size would end up here."""
    message = (
        f"cannot skip {count} batches: an epoch of 10 images has 3 with batch_size"
    )
    with pytest.raises(ValueError, match=message):
        sampler(10, 4, 0).skip(count)


def repeated(order, ranks, rank, repetitions):
    """Repeated augmentation in words of lists, as torchvision's sampler has it."""
    several = [(index, i) for index in order for i in range(repetitions)]
    return several[rank::ranks][: len(order) // 256 * 256 // ranks]


@pytest.mark.parametrize("length", [256, 300, 700])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_repeated_augmentation(sampler, length, ranks):
    """Each image several times in a row, in an epoch as long as without, by 256."""
    whole = sampler(length, 8, 5)
    for repetitions in (2, 3):
        for rank in range(ranks):
            ours = sampler(length, 8, 5, rank, ranks, repetitions=repetitions)
            for epoch in (0, 2):
                whole.set_epoch(epoch)
                ours.set_epoch(epoch)
                keys = [divmod(key, length)[::-1] for key in ours]
                assert keys == repeated(list(whole), ranks, rank, repetitions)
                assert len(ours) == ours.images == len(keys)
                ours.skip(2)
                assert len(list(ours)) == len(keys) - 16


def test_repetitions_are_augmented_differently(train):
    """One image, its copies transformed with numbers of their own."""
    from loaders import Seeded

    data = [(torch.zeros(3, 2, 2), kind) for kind in range(5)]
    ours = Seeded(data, 0, augment=lambda image: image + torch.rand(()))
    first, second = ours[2], ours[7]
    assert first[1] == second[1] == 2
    assert not torch.equal(first[0], second[0])
    assert torch.equal(ours[7][0], second[0])


def test_too_few_images_to_repeat(sampler):
    """An epoch would have none."""
    with pytest.raises(
        ValueError, match=r"--ra-sampler counts .* 256 .* there are 255"
    ):
        sampler(255, 8, 0, repetitions=3)
