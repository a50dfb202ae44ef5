"""Files with random damage, or that would run a command: read or refused in one line."""

import io
import json
import pickle
import random
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_src.datasets import load_split
from datasets_src.filtering import FILTER_FILE, filter_images, load_filtered_split
from datasets_src.flickr30k import CAPTION_FILE
from datasets_src.images import open_rgb, read_header
from datasets_src.norms import (
    load_associations,
    load_categories,
    load_concreteness,
    load_word_list,
)
from datasets_src.pairs import load_training_pairs
from datasets_src.wordnet import PARTS_OF_SPEECH, pos_shares
from evaluation.tuning import read_grid
from models_src import visual_encoders
from models_src.baselines.text_only import TextOnlyModel
from models_src.baselines.word_vectors import load_word_vectors
from models_src.model_files import load_text_model, load_visual_model, load_vocabulary
from models_src.settings import TrainingSettings, settings_from_sources
from models_src.visual_encoders import build_visual_encoder
from tests.conftest import thin_network
from tests.test_flickr30k import write_flickr30k
from tests.test_images import random_picture, write_small
from tests.test_published_models import touch
from tests.test_training import run, stopped
from utils.errors import UserError

MUTATIONS = 12  # of each file
ODD_VALUES = [
    *(None, True, 0, -1, 0.5, 10**400, float("nan"), "", "x", "\ud800", "a\nb", "x" * 5000),
    *([], {}, [[]], [0, 0, 0, 0], {"id": 8}),
]
ODD_BYTES = [
    *(b"\xff", b"\0", b"\xe2\x80\xa8", b"\n", b"\t", b" ", b'"', b"\\", b"[", b"}", b": ", b"- "),
    *(b"&a ", b"*a", b"-1", b"1e999", b"NaN", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000),
]
FEW_PAIRS = {"batch_size": 2}  # so that a training of the four captions has four steps
WORDNET = b"  1 licence\ndog n 7 5 @ ~ #m #p %p 7 1 02084071 09886220\nrun n 16 3 @ ~ + 16 11\n"
BOXES = [(8, 18, [0, 0, 5, 5]), (4, 3, [1.5, 2, 3, 4]), (15, 18, [2, 2, 6, 6])]
CONTENTS = {
    "categories": b'animal:\n  dog: 6.2\n  cat: 5\n  "no": 1\nfood: {apple: 3, dog: 1}\n',
    "concreteness": b"Word\tBigram\tConc.M\tConc.SD\ndog\t0\t4.85\t0.2\nice cream\t1\t4.9\t0.1\n",
    "associations": b"r1\tdog\tcat\t12\nr1\tcat\tdog\t3\nr2\tdog\tbone\t7\n",
    "words": b"dog\r\nCat\n\n no \n",
    "vectors": b"2 2\ndog 0.5 1\nno 1 1\n",
    "settings.yaml": b"text_encoder: lstm\nvisual_learning_rate: 1e-4\ngroup_captions: true\n",
    "grid.yaml": b"text_threshold: [0.03, 0.05]\nflip_images: [yes, no]\n",
    **{f"index.{part}": WORDNET for part in PARTS_OF_SPEECH},
}


def read_annotations(path, dataset="coco"):
    folder = path.parents[1 if path.parent.name == dataset else 2]
    split = load_split(folder, "train2014", with_instances=True, dataset=dataset)
    split.fingerprint()
    assert (split.caption_image < len(split.image_ids)).all()
    if split.instances is not None:
        assert np.isfinite(split.instances.boxes).all()


def set_up(path):
    folder = path.parents[2]
    (folder / FILTER_FILE).unlink(missing_ok=True)
    shutil.copytree(folder / "COCO" / "train2014", folder / "COCO" / "val2014", dirs_exist_ok=True)
    for kind in ("captions", "instances"):
        file = folder / "COCO" / "annotations" / f"{kind}_train2014.json"
        shutil.copy(file, file.with_name(f"{kind}_val2014.json"))
    try:
        filter_images(folder)
    except UserError:
        assert not (folder / FILTER_FILE).exists()
        raise
    load_filtered_split(folder, "train2014", use_all_images=False)


def read_image(path):
    read_header(path)
    open_rgb(path, (20, 24))


def read_text_half(path):
    load_text_model(path.parents[1], path.stem)[0].word_posteriors()
    load_vocabulary(path.parents[1], path.stem)


def by_name(load):
    return lambda path: load(path.parents[1], path.stem)


def resume(path):
    pairs = load_training_pairs(path.parent, use_all_images=False)
    options = {"name": path.stem, "resume": True, "settings": FEW_PAIRS}
    stopped(pairs, path.parent, 1, KeyboardInterrupt(), **options)


READERS = {  # file -> what reads it
    "COCO/annotations/captions_train2014.json": [read_annotations, set_up],
    "COCO/annotations/instances_train2014.json": [read_annotations, set_up],
    FILTER_FILE: [lambda path: load_filtered_split(path.parent, "val2014", use_all_images=False)],
    **{
        f"flickr30k/{name}": [partial(read_annotations, dataset="flickr30k")]
        for name in ("train.txt", CAPTION_FILE, "Annotations/36.xml", "Sentences/36.txt")
    },
    **{
        f"{mode}.{kind}": [read_image]
        for mode, kind in (
            *(("RGB", "jpeg"), ("CMYK", "jpeg"), ("RGBA", "png"), ("P", "png"), ("P", "gif")),
            *(("RGB", "tiff"), ("RGB", "webp"), ("RGB", "bmp")),
        )
    },
    "categories": [load_categories],
    "concreteness": [load_concreteness],
    "associations": [lambda path: load_associations(path, ["dog", "cat", "bone"])],
    "words": [load_word_list],
    "vectors": [lambda path: load_word_vectors(path, ["dog", "no"], "--w2v_file")],
    "index.verb": [lambda path: pos_shares(path.parent, ["dog"])],
    "settings.yaml": [lambda path: settings_from_sources(path, {})],
    "grid.yaml": [read_grid],
    **{f"text/{name}": [read_text_half] for name in ("m.cfg", "m.mdl", "counts.mdl")},
    **{f"visual/{name}": [by_name(load_visual_model)] for name in ("m.cfg", "m.mdl")},
    **{f"text_only/{name}": [by_name(TextOnlyModel.load)] for name in ("b.cfg", "b.mdl")},
    "ended.checkpoint": [resume],
    "weights.pth": [
        lambda path: build_visual_encoder(TrainingSettings("resnet18", pretrained_visual=str(path)))
    ],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with all files as they should be."""
    folder = tmp_path_factory.mktemp("whole")
    write_small(folder, BOXES)
    set_up(folder / "COCO" / "annotations" / "any")
    write_flickr30k(folder / "flickr30k")
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, readers in READERS.items():
        if readers == [read_image]:
            mode, kind = name.split(".")
            random_picture(mode, 24, 20).save(folder / name, kind, exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_encoders, "_torchvision_network", thin_network)
        pairs = load_training_pairs(folder, use_all_images=False)
        run(pairs, folder, settings={"epochs": 1})
        run(pairs, folder, settings={"epochs": 1, "text_encoder": "generative"}, name="counts")
        stopped(pairs, folder, 2, name="ended", settings=FEW_PAIRS)
    shutil.copy(folder / "visual" / "m.mdl", folder / "weights.pth")
    TextOnlyModel(("dog", "cat"), {}, np.array([1, -1]), np.array([0.5, 1])).save(folder, "b")
    for header in folder.glob("*/*.cfg"):  # as in older files; else a sum refuses any change
        lines = header.read_text().splitlines(keepends=True)
        header.write_text("".join(line for line in lines if "weights_sha256" not in line))
    return folder


def places(value):
    """Return all (container, key) inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = []
    for key in keys if isinstance(value, dict | list) else ():
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def mutated(content, rng):
    """Return a file's content with a few values or bytes changed, cut out, repeated or put in."""
    if content[:1] == b"{" and rng.random() < 0.7:
        whole = json.loads(content)
        for _ in range(rng.randint(1, 3)):
            container, key = rng.choice(places(whole) or [({1: 1}, 1)])
            if rng.random() < 0.3:
                del container[key]
            else:
                container[key] = json.loads(json.dumps(rng.choice(ODD_VALUES)))
        return json.dumps(whole).encode()
    for _ in range(rng.randint(1, 3)):
        # most near the beginning, where headers are
        start = rng.randrange(min(len(content), rng.choice((40, 200, 10**9))) or 1)
        end = start + rng.choice((0, 1, 2, 50, 10**9))
        part = content[start:end]
        new = rng.choice((b"", part[:99] * 2, part[::-1], *ODD_BYTES))
        content = content[:start] + new + content[end:]
    return content


def hostile(marker):
    """Return files that make the file ``marker`` when they are read carelessly."""
    buffer = io.BytesIO()
    torch.save({"state": touch(marker)}, buffer)
    tag = f"!!python/object/apply:os.system ['touch {marker}']\n"
    return [pickle.dumps(touch(marker)), buffer.getvalue(), tag.encode()]


@pytest.mark.parametrize("name", READERS)
def test_damaged_and_hostile_files_are_read_or_refused_in_one_line(name, whole, tmp_path, thin):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    path, marker, rng = tmp_path / name, tmp_path / "marker", random.Random(f"a {name}")
    content, is_text = path.read_bytes(), name in CONTENTS or name.startswith("flickr30k")
    for read in READERS[name]:
        path.write_bytes(content)
        read(path)
        for _ in range(MUTATIONS):
            path.write_bytes(mutated(content, rng))
            try:
                read(path)
            except UserError as error:
                assert len(str(error).splitlines()) == 1
        for bad in hostile(marker):
            path.write_bytes(bad)
            with suppress(UserError) if is_text else pytest.raises(UserError) as error:
                read(path)
            assert error is None or path.name in str(error.value)
            assert not marker.exists()


def test_the_hostile_files_are_what_they_are_said_to_be(tmp_path):
    in_pickle, in_zip, _ = hostile(tmp_path / "marker")
    for load in (
        lambda: pickle.loads(in_pickle),
        lambda: torch.load(io.BytesIO(in_zip), weights_only=False),
    ):
        load()
        assert (tmp_path / "marker").exists()
        (tmp_path / "marker").unlink()
