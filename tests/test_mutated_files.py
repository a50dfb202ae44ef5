"""Data files with random damage are read or refused in one line; nothing else is ever raised."""

import io
import json
import random
import tempfile
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets_src.datasets import load_split
from datasets_src.filtering import filter_images, load_filtered_split
from datasets_src.images import read_image, read_mode
from datasets_src.norms import load_associations, load_categories, load_concreteness
from tests.test_coco import write_split
from tests.test_images_and_pairs import random_picture
from utils.errors import UserError

COUNT = settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FEWER = settings(COUNT, max_examples=150)
IMAGES = 200  # of each format
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 0.5, 1e308, 10**400, -(2**63), float("nan"), float("inf")),
    *("", " ", "x", "no", "\ud800", "\0", "a\nb", "../x", "/x", "x" * 5000, "x/" * 3000),
    *([], {}, [[]], [None], [0, 0, 0, 0], [1, 2, float("nan"), 4], {"id": 8}),
)
ODD_BYTES = (
    *(b"\xff", b"\0", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"\r\n", b"\n", b"\t", b" "),
    *(b'"', b"'", b"\\", b"[", b"]", b"{", b"}", b",", b": ", b"- ", b"#", b"&a ", b"*a", b"<<: "),
    *(
        b"!!python/object:os.system ",
        b"!!binary ",
        b"? ",
        b"| ",
        b'"\\n": ',
        b'"\\ud800": ',
        b'"\\UFFFFFFFF": ',
        b"---\n",
        b"%YAML 9\n",
        b"@",
    ),
    *(b"-1", b"1e999", b"NaN", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"- " * 3000),
)
CATEGORIES = b'animal:\n  dog: 6.2\n  cat: 5\n  "no": 1\nfood: {apple: 3, dog: 1}\n'
CONCRETENESS = (
    b"Word\tBigram\tConc.M\tConc.SD\ndog\t0\t4.85\t0.2\nice cream\t1\t4.9\t0.1\nhope\t0\t1.2\t1\n"
)
ASSOCIATIONS = b"r1\tdog\tcat\t12\nr1\tcat\tdog\t3\nr2\tdog\tbone\t7\n"


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a few cuts, repetitions and insertions."""
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.integers(0, len(content))) for _ in range(2))
        part = content[start:end]
        new = draw(st.sampled_from((b"", part * 2, part[::-1], *ODD_BYTES)))
        content = content[:start] + new + content[draw(st.sampled_from((start, end))) :]
    return content


def places(value: object) -> list[tuple[object, object]]:
    """Return all (container, key) inside a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = []
    for key in keys if isinstance(value, dict | list) else ():
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a few values replaced, removed or repeated."""
    whole = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        there = places(whole)
        if not there:
            break
        container, key = draw(st.sampled_from(there))
        action = draw(st.sampled_from(("replace", "replace", "remove", "repeat")))
        if action == "replace":
            # a copy: containers among them must stay as they are
            container[key] = json.loads(json.dumps(draw(st.sampled_from(ODD_VALUES))))
        elif action == "remove":
            del container[key]
        elif isinstance(container, list):
            container.append(container[key])
    return json.dumps(whole).encode()


def read_or_refused(read: Callable[[], object]) -> object | None:
    """Return what is read, or None when it is refused in one line."""
    try:
        return read()
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return None


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Three images, captions and boxes."""
    folder = tmp_path_factory.mktemp("small")
    pictures = {image_id: random_picture(seed=image_id) for image_id in (4, 8, 15)}
    captions = [(8, "a red dog"), (4, "a cat ."), (15, "two dogs"), (8, "the dog")]
    boxes = [(8, 1, [0, 0, 5, 5]), (4, 2, [1.5, 2, 3, 4]), (15, 1, [2, 2, 6, 6])]
    return write_split(folder, pictures, captions, boxes)


@pytest.mark.parametrize("damaged", [damaged_json, damaged_bytes])
@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_annotations(small, kind, damaged):
    path = small / "COCO" / "annotations" / f"{kind}_train2014.json"
    content = path.read_bytes()

    @COUNT
    @given(damaged(content))
    def check(mutated):
        path.write_bytes(mutated)
        split = read_or_refused(lambda: load_split(small, "train2014", with_instances=True))
        if split is None:
            return
        for text in (*split.captions, *split.file_names.tolist()):
            text.encode()
        assert (split.caption_image < len(split.image_ids)).all()
        if split.instances is not None:
            assert np.isfinite(split.instances.boxes).all()
            assert (split.instances.class_index < len(split.instances.class_names)).all()
            for name in split.instances.class_names:
                name.encode()

    try:
        check()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_setup_with_damaged_annotations_leaves_a_whole_result_or_none(small, kind):
    path = small / "COCO" / "annotations" / f"{kind}_train2014.json"
    content = path.read_bytes()
    result = small / "filtered_images.json"

    @FEWER
    @given(damaged_json(content))
    def check(mutated):
        path.write_bytes(mutated)
        result.unlink(missing_ok=True)
        if read_or_refused(lambda: filter_images(small)) is None:
            assert not result.exists()
            return
        found = read_or_refused(
            lambda: load_filtered_split(small, "train2014", use_all_images=False)
        )
        if found is not None:  # all may have been dropped
            assert found[1]
            dropped = json.loads(result.read_text())["splits"]["train2014"]["dropped"].values()
            whole = load_split(small, "train2014", with_instances=False).image_ids.tolist()
            assert sorted(chain(found[0].image_ids.tolist(), *dropped)) == whole

    try:
        check()
    finally:
        path.write_bytes(content)
        result.unlink(missing_ok=True)


def encoded(kind: str, mode: str, **options: object) -> bytes:
    """Return a picture of 24 x 20 pixels in an image format, with an EXIF orientation."""
    pixels = np.random.default_rng(0).integers(256, size=(20, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


PICTURES = {
    "jpeg": encoded("jpeg", "RGB"),
    "progressive": encoded("jpeg", "RGB", progressive=True),
    "cmyk": encoded("jpeg", "CMYK"),
    "grey": encoded("jpeg", "L"),
    "png": encoded("png", "RGBA"),
    "palette": encoded("png", "P"),
    "gif": encoded("gif", "P"),
    "tiff": encoded("tiff", "RGB"),
    "webp": encoded("webp", "RGB"),
    "bmp": encoded("bmp", "RGB"),
}


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return content with some bytes changed, cut out or repeated, or cut off at the end.

    Most changes are near the beginning, where headers are.
    """
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(changed), rng.choice((40, 200, len(changed)))) or 1)
        length = rng.choice((1, 2, 4, 50))
        kind = rng.choice(("byte", "large", "cut", "repeat", "end"))
        if kind == "byte":
            changed[place : place + 1] = rng.randbytes(1)
        elif kind == "large":  # a size, an offset or a number of entries
            changed[place : place + length] = rng.choice((b"\xff", b"\0")) * length
        elif kind == "cut":
            del changed[place : place + length]
        elif kind == "repeat":
            changed[place:place] = changed[place : place + length]
        else:
            del changed[place + 1 :]
    return bytes(changed)


@pytest.mark.parametrize("kind", PICTURES)
def test_images(tmp_path, kind):
    path = tmp_path / "x.jpg"
    path.write_bytes(PICTURES[kind])
    read_image(path, 16)
    rng = random.Random(kind)
    read = refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF data and large pictures
        for _ in range(IMAGES):
            path.write_bytes(changed_bytes(PICTURES[kind], rng))
            read_or_refused(lambda: read_mode(path))
            pixels = read_or_refused(lambda: read_image(path, 16))
            if pixels is None:
                refused += 1
                continue
            read += 1
            assert pixels.shape == (3, 16, 16)
            assert pixels.dtype == np.uint8
    assert min(read, refused) > 0  # few of png, whose parts have checksums


def check_file(content: bytes, read: Callable[[Path], object], check: Callable) -> None:
    """Read a file with many kinds of damage, and check what is read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"

        @COUNT
        @given(damaged_bytes(content))
        def each(mutated):
            path.write_bytes(mutated)
            found = read_or_refused(lambda: read(path))
            if found is not None:
                check(found)

        each()


def test_category_file():
    def check(found):
        assert len(found.words) == len(found.category)
        assert all(type(word) is str for word in (*found.words, *found.names))
        "".join((*found.words, *found.names)).encode()

    check_file(CATEGORIES, load_categories, check)


def test_concreteness_file():
    def check(found):
        assert all(type(word) is str and np.isfinite(found[word]) for word in found)

    check_file(CONCRETENESS, load_concreteness, check)


def test_association_file():
    def check(found):
        pairs, strengths = found
        assert (pairs[:, 0] < pairs[:, 1]).all()
        assert np.isfinite(strengths).all()

    words = ("dog", "cat", "bone")
    check_file(ASSOCIATIONS, lambda path: load_associations(path, words), check)
