"""BERT and CLIP baselines: tiny random models on disk, read by the real loading code."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_src.filtering import load_filtered_split
from evaluation.classification import classification_counts, classification_scores
from evaluation.clip_classification import PUBLISHED_THRESHOLD
from evaluation.thresholds import best_f1_threshold
from main import main
from models_src.baselines import bert_and_clip as baselines
from tests.test_cli import fails
from tests.test_published_models import Calls
from utils.errors import UserError

try:
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError:
    transformers = None

needs_transformers = pytest.mark.skipif(
    transformers is None, reason="transformers is not installed (requirements-baselines.txt)"
)

BERT_VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "is", "a", "dog", "cat", "sun",
    "##flow", "##er", "-", "'", "t", "shirt", "##s", "jack", "o", "lantern",
]  # fmt: skip
CLIP_MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "p h", "ph o", "t o</w>"]
WORDS = ["dog", "sunflower", "T-shirts", "jack-o'-lantern", "zebra"]
SIZE = 32  # pixels of CLIP's images


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    """A tiny BERT with a language modelling head, as the published BERT has one."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(BERT_VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(BERT_VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A tiny CLIP with the files of CLIP's first release for transformers."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz-'"
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += [merge.replace(" ", "") for merge in CLIP_MERGES]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(CLIP_MERGES) + "\n")
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": SIZE,
                "do_center_crop": True,
                "do_normalize": True,
                "do_resize": True,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.25, 0.5, 0.125],
                "resample": 3,
                "size": SIZE,
            }
        )
    )
    torch.manual_seed(1)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    network = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={
                **layers,
                "vocab_size": len(pieces),
                "hidden_size": 16,
                "max_position_embeddings": 77,
                "bos_token_id": len(pieces) - 2,
                "eos_token_id": len(pieces) - 1,
                "pad_token_id": len(pieces) - 1,
            },
            vision_config={**layers, "hidden_size": 16, "image_size": SIZE, "patch_size": 8},
            projection_dim=8,
        )
    )
    for parameter in network.parameters():  # the small usual start makes all texts alike
        torch.nn.init.normal_(parameter, std=0.4)
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Let every attempt to reach another machine fail."""

    def refuse(*_arguments, **_named):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def copied(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of a model's folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# BERT


@needs_transformers
def test_bert_vectors_are_those_of_single_sentences(bert_folder, monkeypatch, no_network):
    pieces = {
        "dog": ["dog"],
        "sunflower": ["sun", "##flow", "##er"],
        "T-shirts": ["t", "-", "shirt", "##s"],
        "jack-o'-lantern": ["jack", "-", "o", "'", "-", "lantern"],
        "zebra": ["[UNK]"],
    }
    network = transformers.BertModel.from_pretrained(bert_folder).eval()
    found = baselines.bert_word_vectors(bert_folder, WORDS, "cpu")
    assert found.shape == (5, 16)
    assert found.dtype == np.float32
    for word, vector in zip(WORDS, found, strict=True):
        sentence = ["[CLS]", "this", "is", "a", *pieces[word], "[SEP]"]
        ids = torch.tensor([[BERT_VOCABULARY.index(piece) for piece in sentence]])
        with torch.no_grad():
            hidden = network(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden[4:-1].mean(dim=0), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1
    monkeypatch.setattr(baselines, "TEXT_BATCH", 2)
    again = baselines.bert_word_vectors(bert_folder, WORDS, "cpu")
    np.testing.assert_allclose(again, found, atol=1e-5)
    assert baselines.bert_word_vectors(bert_folder, [], "cpu").shape == (0, 16)
    assert np.isfinite(baselines.bert_word_vectors(bert_folder, ["t-" * 50], "cpu")).all()


@needs_transformers
def test_bert_reads_old_weight_files_and_new_tokenizer_files(bert_folder, tmp_path):
    """A pickle of tensors with LayerNorm's names of TensorFlow; tokenizer.json, no vocab.txt."""
    folder = copied(bert_folder, tmp_path)
    network = transformers.BertForMaskedLM.from_pretrained(bert_folder)
    transformers.BertTokenizer.from_pretrained(bert_folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    (folder / "model.safetensors").unlink()
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, value in network.state_dict().items():
        for new_part, old_part in old.items():
            name = name.replace(new_part, old_part)
        state[name] = value
    torch.save(state, folder / "pytorch_model.bin")
    np.testing.assert_array_equal(
        baselines.bert_word_vectors(folder, WORDS, "cpu"),
        baselines.bert_word_vectors(bert_folder, WORDS, "cpu"),
    )


@needs_transformers
def test_pickled_weights_run_no_code(bert_folder, tmp_path):
    folder = copied(bert_folder, tmp_path)
    (folder / "model.safetensors").unlink()
    evil = Calls(os.mkdir, str(tmp_path / "made"))
    torch.save({"bert.x": evil}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=str(folder)):
        baselines.bert_word_vectors(folder, WORDS, "cpu")
    assert not (tmp_path / "made").exists()


@needs_transformers
@pytest.mark.parametrize(
    "damage",
    [
        {"config.json": None},
        {"vocab.txt": None},
        {"model.safetensors": None},
        {"model.safetensors": "rubbish"},
    ],
)
def test_bert_folders_that_cannot_be_read(bert_folder, tmp_path, damage):
    folder = copied(bert_folder, tmp_path)
    for name, text in damage.items():
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=r"bert-base-uncased.*--bert_dir") as raised:
        baselines.bert_word_vectors(folder, WORDS, "cpu")
    assert "\n" not in str(raised.value)


@needs_transformers
def test_weights_must_be_complete(bert_folder, clip_folder, tmp_path):
    """Else transformers would leave some random."""
    folder = copied(bert_folder, tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing, the first encoder\.layer\.1\."):
        baselines.bert_word_vectors(folder, WORDS, "cpu")
    with pytest.raises(UserError, match="weights are missing"):
        baselines.bert_word_vectors(clip_folder, WORDS, "cpu")


def test_absent_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere \(--bert_dir\).*bert-base-uncased"):
        baselines.bert_word_vectors(tmp_path / "nowhere", WORDS, "cpu")
    with pytest.raises(UserError, match=r"no folder .*nowhere \(--clip_dir\).*clip-vit-base-patch"):
        baselines.clip_word_vectors(tmp_path / "nowhere", WORDS, "cpu")


def test_without_transformers_its_installation_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-baselines.txt"):
        baselines.bert_word_vectors(tmp_path, WORDS, "cpu")


# CLIP


def clip_pieces(folder: Path, word: str, merged: dict[str, list[str]]) -> list[int]:
    """Return the piece ids of "a photo of a WORD", spelled out by hand."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    pieces = ["<|startoftext|>", "a</w>", "pho", "to</w>", "o", "f</w>", "a</w>"]
    pieces += merged.get(word, [*word[:-1], word[-1] + "</w>"])
    return [vocabulary[piece] for piece in [*pieces, "<|endoftext|>"]]


@needs_transformers
@pytest.mark.parametrize("end_id", [None, 2])
def test_clip_vectors_are_those_of_single_texts(clip_folder, tmp_path, monkeypatch, end_id):
    """With the end-of-text id of new configurations, and with that of CLIP's first release."""
    folder = copied(clip_folder, tmp_path)
    if end_id is not None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["eos_token_id"] = end_id
        (folder / "config.json").write_text(json.dumps(config))
    network = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    words = ["dog", "cat", "horse", "T"]
    found = baselines.clip_word_vectors(folder, words, "cpu")
    assert found.shape == (4, 8)
    assert found.dtype == np.float32
    merged = {"dog": ["dog</w>"], "cat": ["cat</w>"], "T": ["t</w>"]}
    for word, vector in zip(words, found, strict=True):
        ids = torch.tensor([clip_pieces(clip_folder, word, merged)])
        with torch.no_grad():
            hidden = network.text_model(input_ids=ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, network.text_projection(hidden).detach(), atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.01
    monkeypatch.setattr(baselines, "TEXT_BATCH", 1)
    np.testing.assert_allclose(baselines.clip_word_vectors(folder, words, "cpu"), found, atol=1e-4)


@needs_transformers
def test_clip_reads_new_files_too(clip_folder, tmp_path):
    """What save_pretrained writes today: tokenizer.json and processor_config.json."""
    folder = tmp_path / "new"
    transformers.CLIPModel.from_pretrained(clip_folder).save_pretrained(folder)
    transformers.CLIPProcessor.from_pretrained(clip_folder).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    np.testing.assert_array_equal(
        baselines.clip_word_vectors(folder, ["dog", "cats"], "cpu"),
        baselines.clip_word_vectors(clip_folder, ["dog", "cats"], "cpu"),
    )


@needs_transformers
def test_similarities_are_cosines_of_single_images_and_texts(clip_folder, demo_data):
    paths = sorted((demo_data / "COCO" / "val2014").iterdir())[:5]
    texts = ["a photo of a dog", "a cat"]
    arguments = {"workers": 0, "device": "cpu"}
    found = baselines.image_text_similarities(clip_folder, paths, texts, batch_size=2, **arguments)
    assert found.shape == (5, 2)
    network = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip_folder, backend="pil")
    for row, path in enumerate(paths):
        for column, text in enumerate(texts):
            with Image.open(path) as image:
                inputs = processor(text=[text], images=[image], return_tensors="pt")
            with torch.no_grad():
                out = network(**inputs)
            cosine = torch.cosine_similarity(out.image_embeds, out.text_embeds).item()
            assert found[row, column] == pytest.approx(cosine, abs=1e-4)
    whole = baselines.image_text_similarities(clip_folder, paths, texts, batch_size=50, **arguments)
    np.testing.assert_allclose(whole, found, atol=1e-5)
    none = baselines.image_text_similarities(clip_folder, [], texts, batch_size=50, **arguments)
    assert none.shape == (0, 2)


def edit_json(path: Path, *keys: str, value) -> None:
    """Set an entry of a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


# the utilities


@needs_transformers
@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_word_vectors_are_clustered_for_categorization(
    kind, bert_folder, clip_folder, demo_data, tmp_path, capfd
):
    folder = copied(bert_folder if kind == "bert" else clip_folder, tmp_path)
    arguments = [
        "--utility=categorization_evaluation",
        f"--model_type={kind}",
        f"--{kind}_dir={folder}",
        f"--datasets_dir={demo_data}",
        f"--results_dir={tmp_path / 'results'}",
        "--baseline_cluster_num=7",
        "--device=cpu",
    ]
    assert main(arguments) == 0
    assert capfd.readouterr().err == ""
    found = results(tmp_path, "categorization_evaluation", kind)
    assert found["metrics"]["categorization"]["known_words"]["word_count"] > 20
    assert found["settings"][f"{kind}_dir"] == str(folder)

    state = load_file(folder / "model.safetensors")
    weights = {
        "bert": "bert.encoder.layer.1.output.dense.weight",
        "clip": "text_projection.weight",
    }
    state[weights[kind]][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert main(arguments) == 2
    assert "numbers that are not finite" in capfd.readouterr().err


@pytest.fixture
def places(demo_data, clip_folder, tmp_path):
    """Options for the demo data and the tiny CLIP, with results of the test's own."""
    return [
        f"--datasets_dir={demo_data}",
        f"--results_dir={tmp_path / 'results'}",
        f"--clip_dir={clip_folder}",
        "--device=cpu",
        "--workers=0",
    ]


def results(tmp_path: Path, utility: str, name: str = "clip") -> dict:
    """Return the results that a utility wrote."""
    return json.loads((tmp_path / "results" / f"{utility}_{name}.json").read_text())


def reference(demo_data: Path, clip_folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities and gold of a part's kept images, read straight from the files."""
    content = json.loads((demo_data / "COCO/annotations" / f"instances_{part}.json").read_text())
    filtered = json.loads((demo_data / "filtered_images.json").read_text())["splits"][part]
    dropped = {image for images in filtered["dropped"].values() for image in images}
    images = sorted(
        (entry["id"], entry["file_name"])
        for entry in content["images"]
        if entry["id"] not in dropped
    )
    classes = sorted(
        (entry["id"], entry["name"])
        for entry in content["categories"]
        if len(entry["name"].split()) == 1
    )
    shown = {(entry["image_id"], entry["category_id"]) for entry in content["annotations"]}
    gold = np.array([[(image, kind) in shown for kind, _ in classes] for image, _ in images])
    similarities = baselines.image_text_similarities(
        clip_folder,
        [demo_data / "COCO" / part / name for _, name in images],
        [f"a photo of a {name}" for _, name in classes],
        batch_size=7,
        workers=0,
        device="cpu",
    )
    return similarities, gold


@needs_transformers
def test_threshold_is_found_and_used(places, demo_data, clip_folder, tmp_path, capsys, no_network):
    assert main(["--utility=find_clip_positive_threshold", "--batch_size=7", *places]) == 0
    assert "0.1903" in capsys.readouterr().out
    found = results(tmp_path, "find_clip_positive_threshold")
    similarities, gold = reference(demo_data, clip_folder, "train2014")
    best = best_f1_threshold(similarities, gold)
    assert found["metrics"] == {
        "clip_positive_threshold": {
            "threshold": best.threshold,
            "f1": best.f1,
            "precision": best.precision,
            "recall": best.recall,
            "pair_count": gold.size,
        }
    }
    split, _ = load_filtered_split(
        demo_data, "train2014", use_all_images=False, with_instances=True
    )
    assert found["data"] == {
        "train_images": len(gold),
        "train_images_fingerprint": split.fingerprint(),
        "filtered": True,
    }
    assert found["settings"]["clip_dir"] == str(clip_folder)

    assert main(["--utility=clip_classification_evaluation", "--batch_size=7", *places]) == 0
    assert "threshold" in capsys.readouterr().out
    found = results(tmp_path, "clip_classification_evaluation")
    similarities, gold = reference(demo_data, clip_folder, "val2014")
    counts = classification_counts(similarities >= best.threshold, gold)
    expected = classification_scores(counts, gold.shape[1])
    assert found["metrics"] == {"class_name_classification": expected}
    assert found["settings"]["clip_threshold"] == best.threshold
    assert found["settings"]["threshold_source"] == "find_clip_positive_threshold_clip.json"
    assert found["data"]["test_images"] == len(gold)


@needs_transformers
def test_thresholds_of_other_models_and_data_are_refused(places, clip_folder, tmp_path, capsys):
    utility = "--utility=clip_classification_evaluation"
    assert main([utility, *places]) == 0  # nothing found yet
    settings = results(tmp_path, "clip_classification_evaluation")["settings"]
    assert settings["clip_threshold"] == PUBLISHED_THRESHOLD
    assert settings["threshold_source"] == "published, of CLIP RN50 on COCO"
    assert main(["--utility=find_clip_positive_threshold", *places]) == 0
    path = tmp_path / "results" / "find_clip_positive_threshold_clip.json"
    written = path.read_text()
    capsys.readouterr()
    fails(capsys, utility, *places, "--use_all_images", mentions="another filtered")
    edit_json(path, "settings", "dataset", value="flickr30k")
    fails(capsys, utility, *places, mentions="another dataset")
    path.write_text(written)

    # the same files at another place are the same model
    folder = copied(clip_folder, tmp_path)
    other = [*places, f"--clip_dir={folder}"]
    assert main([utility, *other]) == 0
    # whatever changes the similarities makes another model, though the weights are the same
    merges = folder / "merges.txt"
    merges.write_text(merges.read_text().replace("d o\n", ""))
    capsys.readouterr()
    fails(capsys, utility, *other, mentions="another clip_sha256")
    for threshold, count in ((-1.01, "true_negatives"), (1.01, "true_positives")):
        assert main([utility, f"--clip_threshold={threshold}", *other]) == 0
        found = results(tmp_path, "clip_classification_evaluation")["metrics"]
        assert found["class_name_classification"][count] == 0


@needs_transformers
@pytest.mark.parametrize(
    "utility", ["clip_classification_evaluation", "find_clip_positive_threshold"]
)
def test_mistakes_are_one_line_and_status_2(utility, places, demo_data, tmp_path, capsys):
    called = [f"--utility={utility}", *places]
    fails(capsys, *called, f"--clip_dir={tmp_path / 'nowhere'}", mentions="nowhere (--clip_dir)")
    fails(capsys, *called, f"--datasets_dir={tmp_path / 'no_data'}", mentions="no_data")
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    part = "val2014" if "classification" in utility else "train2014"
    damaged = [*called, f"--datasets_dir={data}", "--use_all_images"]
    image = sorted((data / "COCO" / part).iterdir())[-1]
    image.write_text("no image")
    fails(capsys, *damaged, mentions=str(image))
    for path in (data / "COCO" / "annotations").glob("instances_*"):
        path.unlink()
    fails(capsys, *damaged, mentions="add its instances")
    assert not list(tmp_path.rglob("*_clip.json"))
