"""Models, checkpoints, settings, results and other stored files with random damage.

They are read or refused in one line; nothing else is ever raised, and nothing in them is run.
"""

import io
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_src.training_run import (
    DataIdentity,
    RunOptions,
    find_checkpoint,
    new_run,
    require_same_run,
    whole_checkpoint,
)
from torch import Tensor

from datasets_src.captions import stored_vocabulary
from datasets_src.datasets import load_split
from datasets_src.filtering import FILTER_FILE, load_filtered_split
from datasets_src.norms import load_word_list
from datasets_src.pairs import TrainingPairs, load_training_pairs
from datasets_src.wordnet import PARTS_OF_SPEECH, load_wordnet
from evaluation.comparison import comparison_table, read_results, read_word_answers
from evaluation.report_page import curve_panels, read_history
from evaluation.reports import write_history, write_results
from evaluation.tuning import grid_combinations, read_grid
from models_src import visual_encoders
from models_src.baselines.text_only import KIND, TextOnlyModel, load_text_only_model
from models_src.baselines.text_only import save_text_only_model as save_text_only
from models_src.baselines.word_vectors import load_word_vectors
from models_src.model_files import load_text_model, load_visual_model
from models_src.settings import TrainingSettings, settings_from_sources
from models_src.training import train
from tests.test_flickr30k import write_flickr30k
from tests.test_killed_training import MODEL, thin_network
from tests.test_mutated_files import (
    COUNT,
    ODD_VALUES,
    check_file,
    damaged_bytes,
    damaged_json,
    places,
    read_or_refused,
)

FEWER = settings(COUNT, max_examples=100)  # for files that take longer to read
ODD_TENSORS = (
    torch.zeros(0),
    torch.zeros(2, 3),
    torch.tensor(float("nan")),
    torch.zeros(3, dtype=torch.int64),
    torch.zeros(2, dtype=torch.bool),
    torch.zeros(1, 1).to_sparse(),
)


@st.composite
def damaged_tensors(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a few values of a file of tensors replaced or removed."""
    whole = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(draw(st.integers(1, 3))):
        there = places(whole)
        if not there:
            break
        container, key = draw(st.sampled_from(there))
        if draw(st.booleans()):
            # a copy: containers among them must stay as they are
            container[key] = deepcopy(draw(st.sampled_from((*ODD_VALUES, *ODD_TENSORS))))
        else:
            del container[key]
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return buffer.getvalue()


def check_in_place(
    path: Path,
    damaged: Callable,
    read: Callable[[], object],
    check: Callable | None = None,
    count: settings = COUNT,
) -> None:
    """Damage a file in many ways, and read it each time; at the end it is whole again."""
    content = path.read_bytes()

    @count
    @given(damaged(content))
    def each(mutated):
        path.write_bytes(mutated)
        found = read_or_refused(read)
        if found is not None and check is not None:
            check(found)

    try:
        assert read_or_refused(read) is not None  # the whole file is read
        each()
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def small(demo_data) -> TrainingPairs:
    return load_training_pairs(demo_data, use_all_images=False)


@pytest.fixture(scope="module")
def models(small, tmp_path_factory) -> Path:
    """Two small models, and the checkpoints of two trainings that were ended early."""
    folder = tmp_path_factory.mktemp("models")

    def ended(_text):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_encoders, "_torchvision_network", thin_network)
        for kind in ("lstm", "generative"):
            chosen = TrainingSettings(**MODEL | {"epochs": 1}, text_encoder=kind)
            train(chosen, small, RunOptions(kind, folder), None, lambda _history: None)
            with pytest.raises(KeyboardInterrupt):
                train(chosen, small, RunOptions(f"{kind}_ended", folder), ended, print)
    return folder


@pytest.mark.parametrize("kind", ["lstm", "generative"])
@pytest.mark.parametrize(
    ("suffix", "damaged"),
    [("cfg", damaged_bytes), ("mdl", damaged_bytes), ("mdl", damaged_tensors)],
)
def test_text_models(models, kind, suffix, damaged):
    def check(found):
        encoder, settings, _ = found
        posteriors = encoder.word_posteriors()
        assert posteriors.shape == (len(encoder.words), settings.cluster_num)
        assert all(type(word) is str for word in encoder.words)

    path = models / "text" / f"{kind}.{suffix}"
    check_in_place(path, damaged, lambda: load_text_model(models, kind), check, FEWER)


@pytest.mark.parametrize(
    ("suffix", "damaged"),
    [("cfg", damaged_bytes), ("mdl", damaged_bytes), ("mdl", damaged_tensors)],
)
def test_visual_models(models, monkeypatch, suffix, damaged):
    monkeypatch.setattr(visual_encoders, "_torchvision_network", thin_network)
    path = models / "visual" / f"lstm.{suffix}"
    check_in_place(path, damaged, lambda: load_visual_model(models, "lstm"), count=FEWER)


@pytest.mark.parametrize("kind", ["lstm", "generative"])
@pytest.mark.parametrize("damaged", [damaged_bytes, damaged_tensors])
def test_checkpoints(models, small, monkeypatch, kind, damaged):
    monkeypatch.setattr(visual_encoders, "_torchvision_network", thin_network)
    chosen = TrainingSettings(**MODEL | {"epochs": 1}, text_encoder=kind)
    options = RunOptions(f"{kind}_ended", models, resume=True)
    sizes = torch.from_numpy(small.split.image_file_sizes())
    data = DataIdentity(small.fingerprint(), sizes, {})

    def read():
        checkpoint = find_checkpoint(options)
        run = new_run(chosen, small, "cpu")
        with whole_checkpoint(options.checkpoint_file):
            require_same_run(checkpoint, chosen, data, options.checkpoint_file)
            run.load_state(checkpoint["run"], "cpu")
        return run

    check_in_place(options.checkpoint_file, damaged, read, count=FEWER)


@pytest.mark.parametrize(
    ("suffix", "damaged"),
    [("cfg", damaged_bytes), ("mdl", damaged_bytes), ("mdl", damaged_tensors)],
)
def test_baselines(tmp_path, suffix, damaged):
    model = TextOnlyModel(("dog", "cat"), np.array([0, 1]), np.array([0.5, 0.2]), {"seed": 0})
    save_text_only(tmp_path, "b", model)
    path = tmp_path / KIND / f"b.{suffix}"
    check_in_place(path, damaged, lambda: load_text_only_model(tmp_path, "b"))


SETTINGS = b"""text_encoder: lstm
cluster_num: 20
visual_learning_rate: 1e-4  # as text
group_captions: true
pretrained_visual: null
epochs: 3
"""


def test_settings_files():
    check_file(
        SETTINGS,
        lambda path: settings_from_sources(path, {}),
        lambda found: json.dumps(found.as_dict(), allow_nan=False),
    )


GRID = b"""text_threshold: [0.03, 0.05]
visual_learning_rate: [1e-4, 1e-3]
text_encoder: [lstm, generative]
flip_images: [yes, no]
"""


def test_grids():
    def read(path):
        return grid_combinations({}, read_grid(path))

    check_file(GRID, read, lambda found: [json.dumps(one.settings.as_dict()) for one in found])


@pytest.mark.parametrize(
    "name", ["train.txt", "results_20130124.token", "Annotations/36.xml", "Sentences/36.txt"]
)
def test_flickr30k(tmp_path, name):
    folder = write_flickr30k(tmp_path / "flickr30k")

    def read():
        return load_split(tmp_path, "train2014", with_instances=True, dataset="flickr30k")

    def check(split):
        for text in split.captions:
            text.encode()
        assert (split.caption_image < len(split.image_ids)).all()
        assert all(split.path(image).parent == split.folder for image in range(len(split.widths)))
        if split.instances is not None:
            assert np.isfinite(split.instances.boxes).all()

    check_in_place(folder / name, damaged_bytes, read, check)


@pytest.mark.parametrize("damaged", [damaged_bytes, damaged_json])
def test_filter_results(demo_data, damaged):
    path = demo_data / FILTER_FILE

    def read():
        return load_filtered_split(demo_data, "val2014", use_all_images=False)

    check_in_place(path, damaged, read)


@pytest.mark.parametrize("damaged", [damaged_bytes, damaged_json])
def test_results_files(tmp_path, damaged):
    path = write_results(
        tmp_path,
        "text_evaluation",
        "m",
        metrics={"categorization": {"known_words": {"v_measure": 0.5, "f_score": None}}},
        settings={"seed": 0, "dataset": "coco"},
        data={"train_images": 5, "train_captions": 9, "filtered": False},
        not_measured={},
    )

    def read():
        return comparison_table([read_results(tmp_path, "m")])

    check_in_place(path, damaged, read)


def test_tables_of_words():
    content = (
        b"word,count,cluster,probability,concreteness,concreteness_rating,category\r\n"
        b'dog,9,3,0.5,0.5,4.8,animal\r\nhope,2,,0,0,1.5,\r\n"a,b",1,0,0.1,0.1,,food\r\n'
    )
    check_file(content, read_word_answers, lambda found: found.counts.sum())


def test_metrics_by_epoch(tmp_path):
    path = tmp_path / "evaluation_by_epoch.csv"
    rows = [{"visual_loss": 1.5, "categorization.all_words.f_score": None}, {"visual_loss": 0.5}]
    write_history(path, rows)
    check_in_place(path, damaged_bytes, lambda: [curve_panels(read_history(path))])


def test_stored_tokens(tmp_path):
    texts = ("a dog .", "two cats", "")
    path = tmp_path / "tokens.npz"
    expected, _ = stored_vocabulary(texts, path)

    def check(found):
        vocabulary, captions = found
        assert vocabulary.words == expected.words
        assert len(captions) == len(texts)

    check_in_place(path, damaged_bytes, lambda: stored_vocabulary(texts, path), check)


def test_word_lists():
    check_file(b"dog\r\nCat\n\n no \n", load_word_list, lambda found: [w.encode() for w in found])


def test_word_vectors(tmp_path):
    text = b"3 2\ndog 0.5 1\ncat -1 2e-3\nno 1 1\n"
    numbers = np.array([[0.5, 1], [-1, 2], [1, 1]], dtype=np.float32)
    binary = b"3 2\n" + b"".join(
        word + b" " + row.tobytes()
        for word, row in zip((b"dog", b"cat", b"no"), numbers, strict=True)
    )

    def read(path):
        return load_word_vectors(path, ["dog", "no"], "--w2v_file")

    for content in (text, binary):
        check_file(content, read, lambda found: found[0].sum())


def test_wordnet(tmp_path):
    for part in PARTS_OF_SPEECH:
        (tmp_path / f"index.{part}").write_text(
            "  1 licence\ndog n 7 5 @ ~ #m #p %p 7 1 02084071 09886220\nrun n 16 3 @ ~ + 16 11\n"
        )
    path = tmp_path / "index.verb"
    check_in_place(path, damaged_bytes, lambda: load_wordnet(tmp_path))


def test_every_odd_tensor_is_one_that_files_can_hold():
    for tensor in ODD_TENSORS:
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        assert isinstance(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True), Tensor)
