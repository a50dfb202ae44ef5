"""Stored files with random damage are read or refused in one line, and nothing in them is run."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets_src.filtering import FILTER_FILE, load_filtered_split
from datasets_src.norms import load_word_list
from datasets_src.pairs import load_training_pairs
from datasets_src.wordnet import PARTS_OF_SPEECH, pos_shares
from evaluation.tuning import grid_combinations, read_grid
from models_src import visual_encoders
from models_src.baselines.word_vectors import load_word_vectors
from models_src.model_files import load_text_model, load_visual_model, load_vocabulary
from models_src.settings import TrainingSettings, settings_from_sources
from models_src.training import RunOptions, train
from tests.test_training import SMALL, StopAt, thin_network
from utils.errors import UserError

MUTATIONS = 15  # of each file
TEXTS = {
    "settings.yaml": "text_encoder: lstm\nvisual_learning_rate: 1e-4\npretrained_visual: null\n",
    "grid.yaml": "text_threshold: [0.03, 0.05]\ntext_encoder: [lstm, generative]\n",
    "words.txt": "dog\r\nCat\n\n no \n",
    "vectors.txt": "3 2\ndog 0.5 1\ncat -1 2e-3\nno 1 1\n",
}


@pytest.fixture(scope="module")
def readers(demo_data, tmp_path_factory) -> dict[Path, Callable[[], object]]:
    """Whole files, each with what reads it."""
    folder = tmp_path_factory.mktemp("files")
    pairs = load_training_pairs(demo_data, use_all_images=False)
    chosen = TrainingSettings(**SMALL | {"epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_encoders, "_torchvision_network", thin_network)
        train(chosen, pairs, RunOptions("m", folder), None, lambda _history: None)
        StopAt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(chosen, pairs, RunOptions("ended", folder), None, print)

    def resume():
        with pytest.MonkeyPatch.context() as patch:
            StopAt(patch, 1)
            train(chosen, pairs, RunOptions("ended", folder, resume=True), None, print)

    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    for part in PARTS_OF_SPEECH:
        line = "  1 licence\ndog n 7 5 @ ~ #m #p %p 7 1 02084071 09886220\n"
        (folder / f"index.{part}").write_text(line)
    return {
        folder / "text" / "m.cfg": lambda: load_text_model(folder, "m"),
        folder / "text" / "m.mdl": lambda: (
            load_text_model(folder, "m"),
            load_vocabulary(folder, "m"),
        ),
        folder / "visual" / "m.cfg": lambda: load_visual_model(folder, "m"),
        folder / "visual" / "m.mdl": lambda: load_visual_model(folder, "m"),
        folder / "ended.checkpoint": resume,
        folder / "settings.yaml": lambda: settings_from_sources(folder / "settings.yaml", {}),
        folder / "grid.yaml": lambda: grid_combinations(read_grid(folder / "grid.yaml"), {}),
        folder / "words.txt": lambda: load_word_list(folder / "words.txt"),
        folder / "vectors.txt": lambda: load_word_vectors(
            folder / "vectors.txt", ["dog", "no"], "--w2v_file"
        ),
        folder / "index.verb": lambda: pos_shares(folder, ["dog"]),
        demo_data / FILTER_FILE: lambda: load_filtered_split(
            demo_data, "val2014", use_all_images=False
        ),
    }


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a file cut, with some bytes changed, or with a part removed or repeated."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randrange(1, 40))
    return rng.choice(
        [
            content[:start],
            content[:start] + rng.randbytes(end - start) + content[end:],
            content[:start] + content[end:],
            content[:end] + content[start:],
            b"",
        ]
    )


def test_damaged_files_are_read_or_refused_in_one_line(readers, monkeypatch):
    monkeypatch.setattr(visual_encoders, "_torchvision_network", thin_network)
    rng = random.Random(0)
    for path, read in readers.items():
        content = path.read_bytes()
        try:
            for _ in range(MUTATIONS):
                path.write_bytes(damaged(content, rng))
                try:
                    read()
                except UserError as error:
                    assert "\n" not in str(error), path
                except KeyboardInterrupt:  # a checkpoint that is whole enough
                    pass
        finally:
            path.write_bytes(content)
