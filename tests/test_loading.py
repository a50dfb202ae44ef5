"""Batches of images: order, what cannot be read, and workers that are killed."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from datasets_src.datasets import load_split
from datasets_src.loading import load_batches, load_images
from tests.test_coco import refusal_of
from tests.test_images import read_image, write_small


@pytest.fixture
def split(tmp_path):
    """Three images, of the ids 4, 8 and 15."""
    return load_split(write_small(tmp_path), "train2014")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_loaded_in_order_whatever_the_number_of_workers(demo_data, workers):
    split = load_split(demo_data, "val2014")
    batches = [np.array([3, 0]), np.array([1]), np.array([], int), np.array([2, 2, 9])]
    loaded = list(load_batches(split.images(16), batches, workers))
    assert loaded[2].pixels is None
    for got, batch in zip(loaded, batches, strict=True):
        assert got.errors == {}
        if got.pixels is not None:
            assert got.pixels.dtype == np.uint8
            expected = np.stack([read_image(split.path(image), 16) for image in batch])
            np.testing.assert_array_equal(got.pixels, expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no image")])
def test_unreadable_image_is_refused_in_one_line(split, workers, damage):
    path = split.path(2)
    damage(path)
    batches = [np.array([0, 1]), np.array([1, 2]), np.array([0])]
    images = load_images(split.images(16), batches, workers)
    assert next(images).shape == (2, 3, 16, 16)  # the batch before comes
    assert str(path) in refusal_of(next, images)
    assert multiprocessing.active_children() == []  # though the error is still there


@pytest.mark.parametrize("workers", [0, 2])
def test_readable_images_of_a_batch_come_without_the_others(split, workers, caplog, monkeypatch):
    for image in (0, 2):
        split.path(image).unlink()
    batches = [np.array([0, 1, 2, 1]), np.array([0, 2])]
    loaded = list(load_batches(split.images(16), batches, workers))
    good = read_image(split.path(1), 16)
    np.testing.assert_array_equal(loaded[0].pixels, [good, good])
    assert loaded[1].pixels is None
    assert [sorted(each.errors) for each in loaded] == [[0, 2], [0, 1]]
    assert str(split.path(2)) in str(loaded[1].errors[1])

    left_out = []
    (pixels,) = load_images(split.images(16), batches[:1], workers, left_out)
    assert len(pixels) == 2
    assert left_out == [0, 2]
    assert caplog.text.count("left out: ") == 2
    monkeypatch.setattr("datasets_src.images.FEW_BAD_IMAGES", 1)
    message = refusal_of(list, load_images(split.images(16), batches[:1], workers, []))
    assert message.startswith("2 of 4 images cannot be read; the last: ")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_another_size_than_declared_are_counted(split, workers, caplog):
    split.sizes[1] = (99, 13)
    batches = [np.array([0, 1]), np.array([1, 2])]
    assert len(list(load_images(split.images(16), batches, workers))) == 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"not those of the annotations: 1, the first {split.path(1)}" in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_worker_ends_the_loading_after_one_more_batch(split, number):
    batches = [np.array([place % 3]) for place in range(40)]
    loading = load_batches(split.images(16), batches, 2)
    next(loading), next(loading)  # by then both workers are ready
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, number)
    message = refusal_of(list, loading)
    assert all(words in message for words in ("was killed", "memory", "/dev/shm", "--workers 0"))
    for worker in workers:
        worker.join(10)
    assert [worker.exitcode for worker in workers] == [-number] * 2


def test_workers_that_cannot_start_for_want_of_shared_memory_are_told(split, monkeypatch):
    def full(_loader):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataLoader, "__iter__", full)
    message = refusal_of(list, load_images(split.images(16), [np.array([0])], 2))
    assert all(words in message for words in ("No space left", "/dev/shm", "--workers 0"))


def test_pixels_do_not_pass_through_shared_memory(demo_data):
    """A full /dev/shm would let a worker wait for ever."""
    split = load_split(demo_data, "train2014")
    shared = Path("/dev/shm")
    before = set(shared.iterdir())
    loading = load_images(split.images(128), [np.arange(8)] * 6, 2)
    for _ in loading:
        added = set(shared.iterdir()) - before
        assert not {path for path in added if path.name.startswith("torch_")}
