"""BERT and CLIP baselines: tiny random models on disk, read by the real loading code."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_src.filtering import load_filtered_split
from datasets_src.images import ImageFiles
from evaluation.classification import classification_counts, classification_scores
from evaluation.clip_classification import PUBLISHED_THRESHOLD, best_f1_threshold
from main import main
from models_src.baselines import bert_and_clip
from models_src.baselines.bert_and_clip import (
    bert_word_vectors,
    clip_similarities,
    clip_word_vectors,
)
from tests.conftest import dirs, results_of
from tests.test_cli import fails
from tests.test_coco import refusal_of
from tests.test_images import save_turned
from tests.test_published_models import touch

transformers = pytest.importorskip("transformers", reason="requirements-baselines.txt")
safetensors = pytest.importorskip("safetensors.torch")

BERT_VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "is", "a", "dog", "cat", "sun",
    "##flow", "##er", "-", "'", "t", "shirt", "##s", "jack", "o", "lantern",
]  # fmt: skip
CLIP_MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "p h", "ph o", "t o</w>"]
WORDS = ["dog", "sunflower", "T-shirts", "jack-o'-lantern", "zebra"]
CLASSIFY, FIND = "clip_classification_evaluation", "find_clip_positive_threshold"
SIZE = 32  # pixels of CLIP's images
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 32}  # fmt: skip


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    """A tiny BERT with a language modelling head, as the published BERT has one."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(BERT_VOCABULARY), max_position_embeddings=24, initializer_range=0.5, **LAYERS
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
    preprocessor = {
        "crop_size": SIZE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.25, 0.5, 0.125], "resample": 3, "size": SIZE,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    torch.manual_seed(1)
    text = {
        **LAYERS, "vocab_size": len(pieces), "max_position_embeddings": 77,
        "bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1,
        "pad_token_id": len(pieces) - 1,
    }  # fmt: skip
    vision = {**LAYERS, "image_size": SIZE, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    network = transformers.CLIPModel(config)
    for parameter in network.parameters():  # the small usual start makes all texts alike
        torch.nn.init.normal_(parameter, std=0.4)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let every attempt to reach another machine fail."""
    for name in ("socket.connect", "getaddrinfo"):
        monkeypatch.setattr(
            f"socket.{name}", lambda *_, **__: pytest.fail("a connection was tried")
        )


def copied(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of a model's folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# BERT


def test_bert_vectors_are_those_of_single_sentences(bert_folder, monkeypatch):
    pieces = {
        "dog": ["dog"],
        "sunflower": ["sun", "##flow", "##er"],
        "T-shirts": ["t", "-", "shirt", "##s"],
        "jack-o'-lantern": ["jack", "-", "o", "'", "-", "lantern"],
        "zebra": ["[UNK]"],
    }
    network = transformers.BertModel.from_pretrained(bert_folder).eval()
    found = bert_word_vectors(bert_folder, WORDS, "cpu")
    assert (found.shape, found.dtype) == ((5, 16), np.float32)
    for word, vector in zip(WORDS, found, strict=True):
        sentence = ["[CLS]", "this", "is", "a", *pieces[word], "[SEP]"]
        ids = torch.tensor([[BERT_VOCABULARY.index(piece) for piece in sentence]])
        with torch.no_grad():
            hidden = network(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden[4:-1].mean(dim=0), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1
    monkeypatch.setattr(bert_and_clip, "TEXT_BATCH", 2)
    np.testing.assert_allclose(bert_word_vectors(bert_folder, WORDS, "cpu"), found, atol=1e-5)
    assert bert_word_vectors(bert_folder, [], "cpu").shape == (0, 16)
    assert np.isfinite(bert_word_vectors(bert_folder, ["t-" * 50], "cpu")).all()


def test_bert_reads_old_weight_files_without_running_code_and_new_tokenizer_files(
    bert_folder, tmp_path
):
    """A pickle of tensors with LayerNorm's names of TensorFlow; tokenizer.json, no vocab.txt."""
    folder = copied(bert_folder, tmp_path)
    state = transformers.BertForMaskedLM.from_pretrained(bert_folder).state_dict()
    transformers.BertTokenizer.from_pretrained(bert_folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    (folder / "model.safetensors").unlink()
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        state = {k.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"): v for k, v in state.items()}
    torch.save(state, folder / "pytorch_model.bin")
    np.testing.assert_array_equal(
        bert_word_vectors(folder, WORDS, "cpu"), bert_word_vectors(bert_folder, WORDS, "cpu")
    )
    torch.save({"bert.x": touch(tmp_path / "made")}, folder / "pytorch_model.bin")
    assert str(folder) in refusal_of(bert_word_vectors, folder, WORDS, "cpu")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, None) for name in ("config.json", "vocab.txt", "model.safetensors")),
        ("model.safetensors", "rubbish"),
    ],
)
def test_bert_folders_that_cannot_be_read(bert_folder, tmp_path, name, text):
    folder = copied(bert_folder, tmp_path)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    message = refusal_of(bert_word_vectors, folder, WORDS, "cpu")
    assert "bert-base-uncased" in message
    assert "--bert_dir" in message


def test_weights_must_be_complete(bert_folder, clip_folder, tmp_path):
    """Else transformers would leave some random."""
    folder = copied(bert_folder, tmp_path)
    state = safetensors.load_file(folder / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.weight"]
    safetensors.save_file(state, folder / "model.safetensors", {"format": "pt"})
    message = refusal_of(bert_word_vectors, folder, WORDS, "cpu")
    assert "1 weights are missing, the first encoder.layer.1." in message
    assert "weights are missing" in refusal_of(bert_word_vectors, clip_folder, WORDS, "cpu")


def test_absent_folders_and_packages_are_named(tmp_path, monkeypatch):
    absent = tmp_path / "nowhere"
    assert f"no folder {absent} (--bert_dir)" in refusal_of(bert_word_vectors, absent, WORDS, "cpu")
    assert f"no folder {absent} (--clip_dir)" in refusal_of(clip_word_vectors, absent, WORDS, "cpu")
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = refusal_of(bert_word_vectors, tmp_path, WORDS, "cpu")
    assert "pip install -r requirements-baselines.txt" in message


# CLIP


def clip_pieces(folder: Path, word: str) -> list[int]:
    """Return the piece ids of "a photo of a WORD", spelled out by hand."""
    merged = {"dog": ["dog</w>"], "cat": ["cat</w>"], "T": ["t</w>"]}
    vocabulary = json.loads((folder / "vocab.json").read_text())
    pieces = ["<|startoftext|>", "a</w>", "pho", "to</w>", "o", "f</w>", "a</w>"]
    pieces += merged.get(word, [*word[:-1], word[-1] + "</w>"])
    return [vocabulary[piece] for piece in [*pieces, "<|endoftext|>"]]


@pytest.mark.parametrize("end_id", [None, 2])
def test_clip_vectors_are_those_of_single_texts(clip_folder, tmp_path, monkeypatch, end_id):
    """With the end-of-text id of new configurations, and with that of CLIP's first release."""
    folder = copied(clip_folder, tmp_path)
    if end_id is not None:
        edit_json(folder / "config.json", "text_config", "eos_token_id", value=end_id)
    network = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    words = ["dog", "cat", "horse", "T"]
    found = clip_word_vectors(folder, words, "cpu")
    assert (found.shape, found.dtype) == ((4, 8), np.float32)
    for word, vector in zip(words, found, strict=True):
        ids = torch.tensor([clip_pieces(clip_folder, word)])
        with torch.no_grad():
            hidden = network.text_model(input_ids=ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, network.text_projection(hidden).detach(), atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.01
    monkeypatch.setattr(bert_and_clip, "TEXT_BATCH", 1)
    np.testing.assert_allclose(clip_word_vectors(folder, words, "cpu"), found, atol=1e-4)


def test_clip_reads_new_files_too(clip_folder, tmp_path):
    """What save_pretrained writes today: tokenizer.json and processor_config.json."""
    folder = tmp_path / "new"
    transformers.CLIPModel.from_pretrained(clip_folder).save_pretrained(folder)
    transformers.CLIPProcessor.from_pretrained(clip_folder).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    np.testing.assert_array_equal(
        clip_word_vectors(folder, ["dog", "cats"], "cpu"),
        clip_word_vectors(clip_folder, ["dog", "cats"], "cpu"),
    )


def similarities(folder, paths, words=("dog", "cat"), batch_size=50, workers=0):
    images = ImageFiles(paths).images(size=0)
    return clip_similarities(
        folder, images, words, batch_size=batch_size, workers=workers, device="cpu"
    )


def test_similarities_are_cosines_of_single_images_and_texts(clip_folder, demo_data):
    paths = sorted((demo_data / "COCO" / "val2014").iterdir())[:5]
    found = similarities(clip_folder, paths, batch_size=2)
    assert found.shape == (5, 2)
    network = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip_folder, backend="pil")
    for path, row in zip(paths, found, strict=True):
        for word, cosine in zip(("dog", "cat"), row, strict=True):
            with Image.open(path) as image, torch.no_grad():
                text = [f"a photo of a {word}"]
                out = network(**processor(text=text, images=[image], return_tensors="pt"))
            expected = torch.cosine_similarity(out.image_embeds, out.text_embeds).item()
            assert cosine == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(similarities(clip_folder, paths, workers=1), found, atol=1e-5)
    assert similarities(clip_folder, []).shape == (0, 2)


def test_clip_turns_images_as_their_orientation_says(clip_folder, demo_data, tmp_path):
    path = sorted((demo_data / "COCO" / "val2014").iterdir())[0]
    files = [tmp_path / f"{name}.png" for name in ("turned", "upright", "stored")]
    with Image.open(path) as image:
        save_turned(image, files[0])
        image.transpose(Image.Transpose.ROTATE_270).save(files[1])
        image.save(files[2])
    turned, upright, stored = similarities(clip_folder, files)
    np.testing.assert_allclose(turned, upright, atol=1e-5)
    assert np.abs(turned - stored).max() > 1e-3


def edit_json(path: Path, section: str, key: str, value) -> None:
    """Set an entry of a JSON file."""
    content = json.loads(path.read_text())
    content[section][key] = value
    path.write_text(json.dumps(content))


# the utilities


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_word_vectors_are_clustered_for_categorization(
    kind, bert_folder, clip_folder, demo_data, tmp_path, capfd
):
    folder = copied(bert_folder if kind == "bert" else clip_folder, tmp_path)
    arguments = [
        "--utility=categorization_evaluation", f"--model_type={kind}", f"--{kind}_dir={folder}",
        "--baseline_cluster_num=7", "--device=cpu", *dirs(demo_data, tmp_path),
    ]  # fmt: skip
    assert main(arguments) == 0
    assert capfd.readouterr().err == ""
    found = results_of(tmp_path, "categorization_evaluation", kind)
    assert found["metrics"]["categorization"]["known_words"]["word_count"] > 20
    assert found["settings"][f"{kind}_dir"] == str(folder)

    state = safetensors.load_file(folder / "model.safetensors")
    output = {"bert": "bert.encoder.layer.1.output.dense", "clip": "text_projection"}[kind]
    state[f"{output}.weight"][0, 0] = float("nan")
    safetensors.save_file(state, folder / "model.safetensors", {"format": "pt"})
    fails(capfd, *arguments, mentions="numbers that are not finite")


@pytest.fixture
def places(demo_data, clip_folder, tmp_path):
    """Options for the demo data and the tiny CLIP, with results of the test's own."""
    own = [f"--clip_dir={clip_folder}", "--device=cpu", "--workers=0"]
    return [*dirs(demo_data, tmp_path), *own]


def reference(demo_data: Path, clip_folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities and gold of a part's kept images."""
    split = load_filtered_split(demo_data, part, use_all_images=False, with_instances=True)
    shown = split.instances.counts(len(split.image_ids)) > 0
    single = [k for k, name in enumerate(split.instances.class_names) if " " not in name]
    paths = [split.path(image) for image in range(len(split.image_ids))]
    words = [split.instances.class_names[k] for k in single]
    return similarities(clip_folder, paths, words, batch_size=7), shown[:, single]


def test_threshold_is_found_and_used(places, demo_data, clip_folder, tmp_path, capsys):
    assert main([f"--utility={FIND}", "--batch_size=7", *places]) == 0
    assert "0.1903" in capsys.readouterr().out
    found = results_of(tmp_path, FIND, "clip")
    cosines, gold = reference(demo_data, clip_folder, "train2014")
    best = best_f1_threshold(cosines, gold)
    expected = {**best, "pair_count": gold.size}
    assert found["metrics"] == {"clip_positive_threshold": expected}
    assert (found["data"]["train_images"], found["data"]["filtered"]) == (len(gold), True)
    assert found["settings"]["clip_dir"] == str(clip_folder)

    assert main([f"--utility={CLASSIFY}", "--batch_size=7", *places]) == 0
    assert "threshold" in capsys.readouterr().out
    found = results_of(tmp_path, CLASSIFY, "clip")
    cosines, gold = reference(demo_data, clip_folder, "val2014")
    counts = classification_counts(cosines >= best["threshold"], gold)
    expected = classification_scores(counts, gold.shape[1])
    assert found["metrics"] == {"class_name_classification": expected}
    assert found["settings"]["clip_threshold"] == best["threshold"]
    assert found["settings"]["threshold_source"] == "find_clip_positive_threshold_clip.json"
    assert found["data"]["test_images"] == len(gold)


def test_thresholds_of_other_models_and_data_are_refused(places, clip_folder, tmp_path, capsys):
    utility = f"--utility={CLASSIFY}"
    assert main([utility, *places]) == 0  # nothing found yet
    settings = results_of(tmp_path, CLASSIFY, "clip")["settings"]
    assert settings["clip_threshold"] == PUBLISHED_THRESHOLD
    assert settings["threshold_source"] == "published, of CLIP RN50 on COCO"
    assert main([f"--utility={FIND}", *places]) == 0
    path = tmp_path / f"{FIND}_clip.json"
    capsys.readouterr()
    fails(capsys, utility, *places, "--use_all_images", mentions="another filtered")
    edit_json(path, "settings", "dataset", value="flickr30k")
    fails(capsys, utility, *places, mentions="another dataset")
    edit_json(path, "settings", "dataset", value="coco")

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
        found = results_of(tmp_path, CLASSIFY, "clip")["metrics"]
        assert found["class_name_classification"][count] == 0


@pytest.mark.parametrize("utility", [CLASSIFY, FIND])
def test_mistakes_are_one_line_and_status_2(utility, places, demo_data, tmp_path, capsys):
    called = [f"--utility={utility}", *places]
    fails(capsys, *called, f"--clip_dir={tmp_path / 'nowhere'}", mentions="nowhere (--clip_dir)")
    fails(capsys, *called, f"--datasets_dir={tmp_path / 'no_data'}", mentions="no_data")
    data = shutil.copytree(demo_data, tmp_path / "data")
    part = "val2014" if "classification" in utility else "train2014"
    damaged = [*called, f"--datasets_dir={data}", "--use_all_images"]
    image = sorted((data / "COCO" / part).iterdir())[-1]
    image.write_text("no image")
    fails(capsys, *damaged, mentions=str(image))
    for path in (data / "COCO" / "annotations").glob("instances_*"):
        path.unlink()
    fails(capsys, *damaged, mentions="add its instances")
    assert not list(tmp_path.rglob("*_clip.json"))
