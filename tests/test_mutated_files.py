"""Files with random damage are read or refused in one line; nothing else is ever raised."""

import io
import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets_src.datasets import load_split
from datasets_src.filtering import FILTER_FILE, filter_images, load_filtered_split
from datasets_src.images import open_rgb, read_header
from datasets_src.norms import (
    load_associations,
    load_categories,
    load_concreteness,
    load_word_list,
)
from datasets_src.wordnet import PARTS_OF_SPEECH, pos_shares
from evaluation.tuning import read_grid
from models_src.baselines.word_vectors import load_word_vectors
from models_src.model_files import load_text_model, load_visual_model
from models_src.settings import settings_from_sources
from tests.test_flickr30k import write_flickr30k
from tests.test_images import random_picture, write_small
from utils.errors import UserError

MUTATIONS = 12  # of each file, some 250 in all
ODD_VALUES = [
    *(None, True, 0, -1, 0.5, 10**400, float("nan"), "", "x", "\ud800", "a\nb", "x" * 5000),
    *([], {}, [[]], [0, 0, 0, 0], {"id": 8}),
]
ODD_BYTES = [
    *(b"\xff", b"\0", b"\xe2\x80\xa8", b"\n", b"\t", b" ", b'"', b"\\", b"[", b"}", b": ", b"- "),
    *(b"&a ", b"*a", b"!!python/object:os.system ", b"-1", b"1e999", b"NaN", b"9" * 5000),
    *(b"[" * 3000, b'{"a":' * 3000),
]


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


def encoded(kind, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    random_picture(mode, 24, 20).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def read_image(folder):
    read_header(folder / "x.jpg")
    open_rgb(folder / "x.jpg", (20, 24))


def read_annotations(folder):
    split = load_split(folder, "train2014", with_instances=True)
    assert (split.caption_image < len(split.image_ids)).all()
    split.fingerprint()
    if split.instances is not None:
        assert np.isfinite(split.instances.boxes).all()


def read_setup(folder):
    (folder / FILTER_FILE).unlink(missing_ok=True)
    shutil.copytree(folder / "COCO" / "train2014", folder / "COCO" / "val2014", dirs_exist_ok=True)
    for kind in ("captions", "instances"):
        path = folder / "COCO" / "annotations" / f"{kind}_train2014.json"
        shutil.copy(path, path.with_name(f"{kind}_val2014.json"))
    try:
        filter_images(folder)
    except UserError:
        assert not (folder / FILTER_FILE).exists()
        raise
    load_filtered_split(folder, "train2014", use_all_images=False)


def read_flickr30k(folder):
    load_split(folder, "train2014", with_instances=True, dataset="flickr30k").fingerprint()


BOXES = [(8, 18, [0, 0, 5, 5]), (4, 3, [1.5, 2, 3, 4]), (15, 18, [2, 2, 6, 6])]
COCO = "COCO/annotations/{}_train2014.json"
VECTORS = b"2 2\ndog 0.5 1\nno 1 1\n"
WORDNET = b"  1 licence\ndog n 7 5 @ ~ #m #p %p 7 1 02084071 09886220\nrun n 16 3 @ ~ + 16 11\n"
# name -> the file, what it holds (None: it is written by ``prepared``), and what reads the folder
FILES = {
    "captions": (COCO.format("captions"), None, read_annotations),
    "instances": (COCO.format("instances"), None, read_annotations),
    "setup, captions": (COCO.format("captions"), None, read_setup),
    "setup, instances": (COCO.format("instances"), None, read_setup),
    "filter result": (
        FILTER_FILE,
        None,
        lambda folder: load_filtered_split(folder, "train2014", use_all_images=False),
    ),
    **{
        f"Flickr30k, {name}": (f"flickr30k/{name}", None, read_flickr30k)
        for name in ("train.txt", "results_20130124.token", "Annotations/36.xml")
    },
    "Flickr30k, phrases": ("flickr30k/Sentences/36.txt", None, read_flickr30k),
    **{
        f"{kind} {mode}": ("x.jpg", encoded(kind, mode), read_image)
        for kind, mode in (
            *(("jpeg", "RGB"), ("jpeg", "CMYK"), ("png", "RGBA"), ("png", "P"), ("gif", "P")),
            *(("tiff", "RGB"), ("webp", "RGB"), ("bmp", "RGB")),
        )
    },
    "categories": (
        "c.yaml",
        b'animal:\n  dog: 6.2\n  cat: 5\n  "no": 1\nfood: {apple: 3, dog: 1}\n',
        lambda folder: load_categories(folder / "c.yaml"),
    ),
    "concreteness": (
        "c.txt",
        b"Word\tBigram\tConc.M\tConc.SD\ndog\t0\t4.85\t0.2\nice cream\t1\t4.9\t0.1\n",
        lambda folder: load_concreteness(folder / "c.txt"),
    ),
    "associations": (
        "a.csv",
        b"r1\tdog\tcat\t12\nr1\tcat\tdog\t3\nr2\tdog\tbone\t7\n",
        lambda folder: load_associations(folder / "a.csv", ["dog", "cat", "bone"]),
    ),
    "word list": ("w", b"dog\r\nCat\n\n no \n", lambda folder: load_word_list(folder / "w")),
    "word vectors": (
        "v",
        VECTORS,
        lambda folder: load_word_vectors(folder / "v", ["dog", "no"], "--w2v_file"),
    ),
    "WordNet": ("index.verb", WORDNET, lambda folder: pos_shares(folder, ["dog"])),
    "settings": (
        "s.yaml",
        b"text_encoder: lstm\ncluster_num: 20\nvisual_learning_rate: 1e-4\ngroup_captions: true\n",
        lambda folder: settings_from_sources(folder / "s.yaml", {}),
    ),
    "grid": (
        "g.yaml",
        b"text_threshold: [0.03, 0.05]\ntext_encoder: [lstm, generative]\nflip_images: [yes, no]\n",
        lambda folder: read_grid(folder / "g.yaml"),
    ),
    **{
        f"text model, {name}": (f"text/{name}", None, lambda folder, m=name: load_text(folder, m))
        for name in ("lstm.cfg", "lstm.mdl", "generative.mdl")
    },
    "visual model": ("visual/lstm.cfg", None, lambda folder: load_visual_model(folder, "lstm")),
}


def load_text(folder, file):
    load_text_model(folder, file.split(".")[0])[0].word_posteriors()


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_read_or_refused_in_one_line(name, tmp_path, request):
    place, content, read = FILES[name]
    path = tmp_path / place
    if place.startswith(("text/", "visual/")):
        shutil.copytree(request.getfixturevalue("trained") / "models", tmp_path, dirs_exist_ok=True)
    elif place.startswith("flickr30k"):
        write_flickr30k(tmp_path / "flickr30k")
    elif place.startswith("index"):
        for part in PARTS_OF_SPEECH:
            (tmp_path / f"index.{part}").write_bytes(WORDNET)
    elif content is None:
        write_small(tmp_path, BOXES)
        if place == FILTER_FILE:
            read_setup(tmp_path)
    content = path.read_bytes() if content is None else content
    path.write_bytes(content)
    read(tmp_path)  # the whole file is read
    rng = random.Random(name)
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(content, rng))
        try:
            read(tmp_path)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
