"""The cache of resized images: the same tensors as without it, whatever happens to its files."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets_src import image_cache
from datasets_src.datasets import load_split
from datasets_src.filtering import load_filtered_split
from datasets_src.image_cache import ImageCache
from datasets_src.images import ImageSet, open_rgb, resized
from datasets_src.loading import load_batches, load_images
from datasets_src.splits import Split
from main import main
from tests.conftest import TINY, dirs, results_of
from tests.test_coco import refusal_of, write_split
from tests.test_images import random_picture
from tests.test_training import assert_same, weights

SIZE = 16


def cached_split(datasets_dir: Path, folder: Path, part: str = "train2014"):
    return replace(load_split(datasets_dir, part), cache=ImageCache(folder, f"coco_{part}"))


def all_images(split, workers=0, size=SIZE):
    batches = np.array_split(np.arange(len(split.image_ids)), 3)
    return torch.cat(list(load_images(split.images(size), batches, workers))).numpy()


def from_files(split, size=SIZE):
    paths = map(split.path, range(len(split.image_ids)))
    return np.stack([resized(open_rgb(path), size) for path in paths])


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that are decoded in this process for want of a stored image."""
    paths = []

    def read(images, image):
        paths.append(images.path(image))
        return plain(images, image)

    plain = ImageSet.open
    monkeypatch.setattr(ImageSet, "open", read)
    return paths


@pytest.fixture
def split(tmp_path) -> Split:
    """Six images, with their cache in the folder ``cache``."""
    pictures = {number: random_picture(seed=number) for number in (4, 8, 15, 16, 23, 42)}
    write_split(tmp_path / "data", pictures, [(number, "a dog") for number in pictures])
    return cached_split(tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_the_same_with_and_without_the_cache(demo_data, tmp_path, workers, decoded):
    for part in ("train2014", "val2014"):
        split = cached_split(demo_data, tmp_path / "cache", part)
        for size in (16, 5):
            expected = from_files(split, size)
            np.testing.assert_array_equal(all_images(split, workers, size), expected)
            decoded.clear()
            again = all_images(split, size=size)
            assert decoded == []  # all came from the cache
            assert again.dtype == expected.dtype
            np.testing.assert_array_equal(again, expected)


def test_a_filtered_split_shares_its_images_with_the_whole_one(demo_data, tmp_path, decoded):
    cache = ImageCache(tmp_path, "coco_train2014")
    filtered = load_filtered_split(demo_data, "train2014", use_all_images=False)
    filtered = replace(filtered, cache=cache)
    whole = cached_split(demo_data, tmp_path)
    kept = np.isin(whole.image_ids, filtered.image_ids)
    half = filtered.keep(np.arange(len(filtered.image_ids)) % 2 == 0)  # as tuning holds out
    np.testing.assert_array_equal(all_images(half), from_files(half))
    assert decoded == [half.path(i) for i in range(len(half.image_ids))]
    all_images(filtered)
    decoded.clear()
    np.testing.assert_array_equal(all_images(whole), from_files(whole))
    assert decoded == [whole.path(i) for i in np.flatnonzero(~kept)]


@pytest.mark.parametrize("change", ["content", "time", "name", "pillow"])
def test_a_changed_image_is_read_anew(split, decoded, change, monkeypatch):
    all_images(split)
    decoded.clear()
    path, stat = split.path(2), split.path(2).stat()
    if change == "content":  # of the same length, in the same moment but for a nanosecond
        random_picture(seed=99).save(path)
        content = path.read_bytes()[: stat.st_size]
        path.write_bytes(content + b"\0" * (stat.st_size - len(content)))
        os.utime(path, ns=(0, stat.st_mtime_ns + 1))
    elif change == "time":
        os.utime(path, ns=(0, stat.st_mtime_ns - 10**9))
    elif change == "name":
        names = split.file_names.copy()
        names[[2, 3]] = names[[3, 2]]
        split = replace(split, file_names=names)
    else:
        monkeypatch.setattr(image_cache, "pillow_version", "99.0")
    stale = {"name": [2, 3], "pillow": range(6)}.get(change, [2])
    for expected in ([split.path(i) for i in stale], []):  # and is stored
        np.testing.assert_array_equal(all_images(split), from_files(split))
        assert decoded == expected
        decoded.clear()


def test_a_changed_image_that_cannot_be_read_is_refused(split):
    all_images(split)
    split.path(1).write_bytes(b"no image")
    split.path(3).unlink()
    (loaded,) = load_batches(split.images(SIZE), [np.arange(6)], 0)
    assert sorted(loaded.errors) == [1, 3]
    assert str(split.path(1)) in str(loaded.errors[1])


DAMAGE = {
    "cut": lambda content, at: content[:at],
    "flip": lambda content, at: content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :],
    "zeros": lambda content, at: (content[:at] + bytes(300))[: len(content)],  # a power loss
    "swap": lambda content, _: content[len(content) // 2 :] + content[: len(content) // 2],
    "other": lambda *_: b"something else",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_happens_to_the_files_no_wrong_pixel_is_read(split, kind):
    expected, rng = all_images(split), np.random.default_rng(0)
    for path in split.cache.files(SIZE) * 4:
        content = path.read_bytes()
        path.write_bytes(DAMAGE[kind](content, rng.integers(len(content))))
        for _ in range(2):
            np.testing.assert_array_equal(all_images(split), expected)


def test_interrupted_writing_goes_on_where_it_stopped(split, decoded, caplog):
    caplog.set_level(logging.INFO)
    images = load_images(split.images(SIZE), [np.array([3]), np.array([0, 5])], 0)
    next(images)
    assert "0 of 3 images are stored" in caplog.text
    images.close()  # the second batch is not read
    decoded.clear()
    caplog.clear()
    np.testing.assert_array_equal(all_images(split), from_files(split))
    assert decoded == [split.path(i) for i in (0, 1, 2, 4, 5)]
    assert "1 of 6 images are stored; the others are as they are read, 0.00 GB" in caplog.text
    caplog.clear()
    all_images(split)
    assert caplog.text == ""


def test_too_little_space_is_told_before_anything_is_written(split, tmp_path, monkeypatch):
    room = shutil.disk_usage(tmp_path)._replace(free=6 * 3 * SIZE**2 - 1)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _folder: room)
    message = refusal_of(all_images, split)
    assert str(tmp_path / "cache") in message
    assert "images left take" in message
    assert list((tmp_path / "cache").iterdir()) == []
    # one image less has room
    assert len(next(load_images(split.images(SIZE), [np.arange(5)], 0))) == 5


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(split, tmp_path, decoded):
    (tmp_path / "cache").touch()
    assert str(tmp_path / "cache") in refusal_of(all_images, split)
    assert decoded == []


def test_a_disk_that_fills_up_costs_the_cache_and_not_the_training(split, monkeypatch, caplog):
    calls = []

    def fill_up(path, offset, content):
        calls.append(offset)
        if len(calls) == 4:  # the second image's checksum
            raise OSError(28, "No space left on device")
        plain(path, offset, content)

    plain = image_cache._write_at
    monkeypatch.setattr(image_cache, "_write_at", fill_up)
    np.testing.assert_array_equal(all_images(split), from_files(split))
    assert len(calls) == 4
    assert caplog.text.count("no more images are stored in ") == 1
    monkeypatch.undo()
    np.testing.assert_array_equal(all_images(split), from_files(split))


def test_training_and_evaluation_end_the_same_with_and_without_the_cache(demo_data, tmp_path, thin):
    def results(name, *options):
        places = [*dirs(demo_data, tmp_path / name), "--model_name=m", *options]
        assert main([*TINY, "--flip_images", *places]) == 0
        assert main(["--utility=visual_evaluation", "--visual_threshold=0", *places]) == 0
        return results_of(tmp_path / name, "visual_evaluation", "m")["metrics"]

    option = f"--image_cache={tmp_path / 'cache'}"
    assert results("plain") == results("cached", option) == results("cached", option, "--overwrite")
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "cached"))
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.pixels")) == [
        "coco_train2014_32.pixels",
        "coco_val2014_32.pixels",
    ]
