"""Word vectors of BERT (Devlin et al. 2019) and CLIP (Radford et al. 2021), and CLIP's cosines.

The models lie in local folders, in the files of the package transformers; nothing is downloaded.

Axes: N images, W words or texts, B of a batch, L pieces of a text, D numbers of a vector.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets_src.images import ImageSet
from datasets_src.loading import load_images
from utils.errors import UserError
from utils.files import reading
from utils.progress import with_bar

CONTEXT = "this is a "  # BERT reads a word behind it
PROMPT = "a photo of a {}"  # CLIP reads a word or class name in it
TEXT_BATCH = 64  # texts; it changes the speed, and the vectors by rounding only
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class PretrainedModel:
    """A kind of model: how users name its folder, and its classes in transformers."""

    option: str
    example: str  # on huggingface.co
    kind: str  # of transformers' <kind>Model and <kind>Tokenizer

    def folder(self, given: Path | None, datasets_dir: Path) -> Path:
        """Return the folder that the user gave, or where it is looked for otherwise."""
        return given or datasets_dir / self.example.rpartition("/")[2]

    @property
    def advice(self) -> str:
        """Return what to do where the folder cannot be read."""
        return (
            "download configuration, weights and vocabulary (for images the preprocessor's "
            f"configuration, too) of {self.example} from huggingface.co into a folder and name it "
            f"with {self.option}"
        )


BERT = PretrainedModel("--bert_dir", "bert-base-uncased", "Bert")
CLIP = PretrainedModel("--clip_dir", "openai/clip-vit-base-patch32", "CLIP")


def _load(model: PretrainedModel, folder: Path, device: str, **arguments: Any) -> tuple[Any, Any]:
    """Return a network in float32, ready for evaluation, and its tokenizer."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder} ({model.option}); {model.advice}")
    try:
        import transformers
    except ImportError:
        raise UserError(
            "BERT and CLIP need the package transformers; pip install -r requirements-baselines.txt"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    network_class = getattr(transformers, f"{model.kind}Model")
    tokenizer_class = getattr(transformers, f"{model.kind}Tokenizer")
    with reading(folder, model.advice):
        network, report = network_class.from_pretrained(
            folder,
            local_files_only=True,
            weights_only=True,  # a .bin file is a pickle: only tensors are built from it
            dtype=torch.float32,
            attn_implementation="sdpa",  # a configuration could name code on the network instead
            output_loading_info=True,
            **arguments,
        )
        # without weights or vocabulary transformers would go on with random ones, or none
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"{len(missing)} weights are missing, the first {missing[0]}")
        if not any((folder / name).is_file() for name in VOCABULARIES):
            raise ValueError(f"there is none of {', '.join(VOCABULARIES)}")
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        return network.to(device).eval(), tokenizer


def _vectors(batches: Iterable[Any], dim: int, encode: Callable[[Any], Tensor]) -> np.ndarray:
    """Return what ``encode`` makes of all batches, each (B, D), as one array (W or N, D)."""
    vectors = [np.zeros((0, dim), np.float32)]
    with torch.inference_mode():
        vectors += [encode(batch).cpu().numpy() for batch in batches]
    joined = np.concatenate(vectors)
    if not np.isfinite(joined).all():
        raise ValueError("it computes numbers that are not finite; its weights are damaged")
    return joined


def _tokenized(
    tokenizer: Any, texts: Sequence[str], longest: int, device: Any, **more: bool
) -> Iterable[Any]:
    """Yield a network's inputs for the texts, in batches."""
    for start in with_bar(range(0, len(texts), TEXT_BATCH), "reading words", "batch"):
        batch = list(texts[start : start + TEXT_BATCH])
        how = {"padding": True, "truncation": True, "max_length": longest, **more}
        yield tokenizer(batch, return_tensors="pt", **how).to(device)


def bert_word_vectors(folder: Path, words: Sequence[str], device: str) -> np.ndarray:
    """Return the vector that BERT gives each word in "this is a WORD", (W, D) float32.

    It is the mean of the last hidden layer over the word's own pieces.
    """
    # the pooling layer is for sentences; not all models have one
    network, tokenizer = _load(BERT, folder, device, add_pooling_layer=False)

    def encode(inputs: Any) -> Tensor:
        # the word is the sentence's end: its pieces are those that reach into it
        own = inputs.pop("offset_mapping")[:, :, 1] > len(CONTEXT)  # (B, L)
        hidden = network(**inputs).last_hidden_state  # (B, L, D)
        return torch.einsum("bl,bld->bd", own / own.sum(dim=1, keepdim=True), hidden)

    texts, longest = [CONTEXT + word for word in words], network.config.max_position_embeddings
    with reading(folder, BERT.advice):
        batches = _tokenized(tokenizer, texts, longest, device, return_offsets_mapping=True)
        return _vectors(batches, network.config.hidden_size, encode)


def clip_word_vectors(folder: Path, words: Sequence[str], device: str) -> np.ndarray:
    """Return CLIP's projected text vector of "a photo of a WORD" for each word, (W, D) float32."""
    with reading(folder, CLIP.advice):
        return _clip_text_vectors(*_load(CLIP, folder, device), words)


def _clip_text_vectors(network: Any, tokenizer: Any, words: Sequence[str]) -> np.ndarray:
    texts = [PROMPT.format(word) for word in words]
    longest = network.config.text_config.max_position_embeddings
    return _vectors(
        _tokenized(tokenizer, texts, longest, network.device),
        network.config.projection_dim,
        lambda inputs: network.get_text_features(**inputs).pooler_output,
    )


def _prepared(processor: Any, image: Image.Image) -> np.ndarray:
    pixels: np.ndarray = processor(image, return_tensors="np").pixel_values[0]
    return pixels.astype(np.float32)  # (3, S, S)


def clip_similarities(
    folder: Path,
    images: ImageSet,
    words: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    device: str,
) -> np.ndarray:
    """Return the cosines of CLIP's vectors of images and of "a photo of a WORD", (N, W) float32.

    ``batch_size`` changes the result by rounding only.
    """
    network, tokenizer = _load(CLIP, folder, device)
    import transformers

    with reading(folder, CLIP.advice):
        # Pillow resizes as the authors of CLIP do; torchvision differs in the last digits
        processor = transformers.CLIPImageProcessorPil.from_pretrained(
            folder, local_files_only=True
        )
        prepared = replace(images, prepare=partial(_prepared, processor), cache=None)
        places = np.arange(len(images))
        batches = [places[start : start + batch_size] for start in places[::batch_size]]
        loaded = load_images(prepared, batches, workers)
        image = _vectors(  # (N, D)
            with_bar(loaded, "reading images", "batch", len(batches)),
            network.config.projection_dim,
            lambda pixels: network.get_image_features(pixels.to(device)).pooler_output,
        )
        text = _clip_text_vectors(network, tokenizer, words)  # (W, D)
    lengths = np.linalg.norm(image, axis=1)[:, None] * np.linalg.norm(text, axis=1)  # (N, W)
    cosines: np.ndarray = image @ text.T / np.where(lengths == 0, 1, lengths)
    return cosines
