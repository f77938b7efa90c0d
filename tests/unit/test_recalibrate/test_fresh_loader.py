# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Reading a loader's batches without moving it on."""

import pytest
import torch
from mmdet.datasets import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)

from sn_mm.recalibrate.fresh_loader import fresh_loader, images_per_batch


class Pictures(list):
    """Indices, upright and lying in turn."""

    def __init__(self, count=12):
        super().__init__(range(count))

    def get_data_info(self, index):
        return dict(width=1 + index % 3, height=2)


def infinite(data):
    return DataLoader(data, 2, sampler=InfiniteSampler(data, seed=0))


def epochs(data):
    return DataLoader(data, 2, sampler=DefaultSampler(data, seed=0))


def by_shape(data):
    sampler = AspectRatioBatchSampler(DefaultSampler(data, seed=0), 2)
    return DataLoader(data, batch_sampler=sampler)


def generator(data):
    gen = torch.Generator().manual_seed(4)
    return DataLoader(data, 3, sampler=RandomSampler(data, generator=gen))


def weighted(data):
    gen = torch.Generator().manual_seed(4)
    sampler = WeightedRandomSampler([1.0] * len(data), 8, generator=gen)
    return DataLoader(data, 3, sampler=sampler)


def workers(data):
    return DataLoader(
        data,
        2,
        sampler=InfiniteSampler(data, seed=0),
        num_workers=1,
        persistent_workers=True,
    )


ALL = (infinite, epochs, by_shape, generator, weighted, workers)


def take(iterator, count):
    return [next(iterator).tolist() for _ in range(count)]


@pytest.mark.parametrize('make', ALL)
def test_leaves_the_loader_where_it_is(make):
    plain, watched = make(Pictures()), make(Pictures())
    want = take(iter(plain), 3)
    iterator = iter(watched)
    got = take(iterator, 1)
    seen = take(iter(fresh_loader(watched)), 3)
    got += take(iterator, 1)
    seen_again = take(iter(fresh_loader(watched)), 3)
    got += take(iterator, 1)
    assert got == want
    assert all(0 <= i < 12 for batch in seen for i in batch)
    if make not in (generator, weighted):  # whose generators move on
        assert seen == seen_again == want


def test_is_of_the_same_epoch():
    loader = epochs(Pictures())
    orders = []
    for epoch in (0, 7):
        loader.sampler.set_epoch(epoch)
        assert take(iter(fresh_loader(loader)), 6) == take(iter(loader), 6)
        orders.append(take(iter(loader), 6))
    assert orders[0] != orders[1]


def test_whole_pictures_without_batches():
    loader = DataLoader(Pictures(), batch_size=None)
    assert list(fresh_loader(loader)) == list(range(12))
    assert images_per_batch(loader) == 1


@pytest.mark.parametrize(
    ('make', 'count'), [(infinite, 2), (by_shape, 2), (generator, 3)]
)
def test_images_per_batch(make, count):
    assert images_per_batch(make(Pictures())) == count


def test_what_cannot_be_repeated():
    class Forgetful(Sampler):
        def __init__(self, things):
            self._things = list(things)

        def __iter__(self):
            return iter(self._things)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    loader = DataLoader(Pictures(), sampler=Forgetful([1, 2]))
    with pytest.raises(TypeError, match="Forgetful .* 'things'"):
        fresh_loader(loader)
    with pytest.raises(TypeError, match='Stream has no indices'):
        fresh_loader(DataLoader(Stream()))
