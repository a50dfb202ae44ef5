"""What the program says of two tiny models, against figures stored in tests/golden.

One model is in the program's own format, one in the published program's. Their weights and counts
follow from seeds and names only, so that no change of training changes them. To store new figures,
after a change that is meant to change them: ``python -m tests.test_golden``.
"""

import csv
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_src.demo_world import make_demo_world
from datasets_src.filtering import filter_images
from datasets_src.pairs import TrainingPairs, load_training_pairs
from main import main
from models_src.model_files import Origin, save_halves
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import build_text_encoder
from models_src.visual_encoders import VisualEncoder
from tests.conftest import dirs
from tests.test_published_models import CLUSTER_COUNTS, CONFIG, write_text, write_visual

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("own", "published")
PER_MODEL = ("text_evaluation", "visual_evaluation", "word_clusters", "describe_clusters")
CLUSTERS, THRESHOLDS = 12, {"text_threshold": 0.08, "visual_threshold": 0.5}


def seeded_network(cluster_num: int, datasets: Path) -> VisualEncoder:
    """Return a ResNet-18 whose tensors come from a seed each.

    Its last layer is scaled so that each cluster is active for about a third of the test images.
    """
    encoder = VisualEncoder("resnet18", cluster_num).eval()
    for seed, (name, value) in enumerate(sorted(encoder.network.state_dict().items())):
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
            mean = 0 if name.endswith(("bias", "running_mean")) else 1
            is_kernel = value.dim() > 1
            value.copy_(noise * 1.2 * value[0].numel() ** -0.5 if is_kernel else noise * 0.1 + mean)
    files = sorted((datasets / "COCO/val2014").glob("*.jpg"))
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files]
    with torch.no_grad():
        logits = encoder(torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - 0.5)  # (N, C)
        encoder.head.weight.div_(logits.std(dim=0)[:, None])
        encoder.head.bias.sub_(logits.mean(dim=0)).div_(logits.std(dim=0))
    return encoder


def seeded_counts(words: list[str], cluster_num: int) -> np.ndarray:
    """Return N(w,c), (V, C): most words favour one cluster, and every tenth is in none."""
    rng = np.random.default_rng(7)
    counts = rng.poisson(0.4, (len(words), cluster_num))
    counts[np.arange(len(words)), rng.integers(0, cluster_num - 1, len(words))] += 3
    counts[::10] = 0
    return counts[np.argsort(np.argsort(words))]  # a word has its counts whatever its place


def write_own(models: Path, pairs: TrainingPairs) -> None:
    words = pairs.vocabulary.words
    settings = TrainingSettings(
        visual_encoder="resnet18", text_encoder="generative", cluster_num=CLUSTERS, image_size=64,
        batch_size=5, **THRESHOLDS,
    )  # fmt: skip
    visual = seeded_network(CLUSTERS, models.parent / "datasets")
    text = build_text_encoder(settings, words, "cpu")
    text.load_state_dict(
        {"word_cluster_counts": torch.tensor(seeded_counts(list(words), CLUSTERS))}
    )
    origin = Origin("golden", 1, 0, pairs.fingerprint(), CLUSTERS)
    halves = {"visual": (settings, visual), "text": (settings, text)}
    save_halves(models, "own", origin, halves, pairs.vocabulary.counts)


def write_published(models: Path, words: list[str]) -> None:
    clusters = CLUSTERS - 2
    config = CONFIG | THRESHOLDS | {"cluster_num": clusters}
    counts = [
        {word: int(n) for word, n in zip(words, column, strict=True) if n}
        for column in seeded_counts(words, clusters).T
    ]
    table = CLUSTER_COUNTS | {
        "cluster_num": clusters,
        "cluster_to_word_co_occur": counts,
        "cluster_to_word_prob": [{} for _ in counts],
        "cluster_prob": [1 / clusters] * clusters,
    }
    visual = seeded_network(clusters, models.parent / "datasets")
    write_text(models, config, table, name="published")
    write_visual(models, visual.network.state_dict(), config, name="published")


def evaluate_all(folder: Path) -> dict[str, object]:
    """Return what every utility says, by the name of its file in tests/golden."""
    datasets, models, results = folder / "datasets", folder / "models", folder / "results"
    make_demo_world(datasets, images=100, seed=0)
    filter_images(datasets)
    pairs = load_training_pairs(datasets, use_all_images=False)
    write_own(models, pairs)
    write_published(models, list(pairs.vocabulary.words))
    places = dirs(datasets, models, results)
    found: dict[str, object] = {}
    for name in NAMES:
        for utility in PER_MODEL:
            options = ["--utility", utility, "--model_name", name, "--device=cpu", "--workers=0"]
            options += ["--num_items=3"] * (utility == "describe_clusters")
            assert main([*options, *places]) == 0
            if utility == "word_clusters":
                table = (results / f"{utility}_{name}.csv").read_text().splitlines()
                found[f"{utility}_{name}"] = list(csv.reader(table))[:60]
            else:
                content = json.loads((results / f"{utility}_{name}.json").read_text())
                kept = {key: content[key] for key in ("metrics", "clusters") if key in content}
                found[f"{utility}_{name}"] = json.loads(json.dumps(kept).replace(f"{folder}/", ""))
    assert main(["--utility=compare_models", "--model_name", *NAMES, *places]) == 0
    table = (results / "compare_models.csv").read_text().splitlines()
    found["compare_models"] = list(csv.reader(table))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return evaluate_all(tmp_path_factory.mktemp("golden"))


FILES = ["compare_models", *(f"{utility}_{name}" for utility in PER_MODEL for name in NAMES)]


def leaves(value, where=()):
    """Yield all (place, value) inside a JSON value; a table's cell with a fraction is a number."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*where, key))
    else:
        is_fraction = isinstance(value, str) and re.fullmatch(r"-?\d*\.\d+", value)
        yield where, float(value) if is_fraction else value


@pytest.mark.parametrize("name", FILES)
def test_figures_are_the_stored_ones(found, name):
    stored = json.loads((GOLDEN / f"{name}.json").read_text())
    values, wanted = dict(leaves(found[name])), dict(leaves(stored))
    assert list(values) == list(wanted)
    for where, value in wanted.items():
        expected = pytest.approx(value, abs=2e-3) if isinstance(value, float) else value
        assert values[where] == expected, where


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for file_name, content in evaluate_all(Path(place)).items():
            text = json.dumps(content, ensure_ascii=False)
            rounded = json.loads(text, parse_float=lambda number: round(float(number), 4))
            text = json.dumps(rounded, ensure_ascii=False)
            (GOLDEN / f"{file_name}.json").write_text(text + "\n")
