"""Word vectors, and similarities of images and texts, of CLIP (Radford et al. 2021).

Axes: N images, B of a batch, W texts or words, L pieces of a text, D numbers of a vector, S the
image size in pixels that the network takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_src.images import ImageSet
from datasets_src.loading import load_images
from models_src.baselines.transformers_models import (
    WEIGHTS,
    ModelKind,
    encode,
    load_network,
    load_part,
    load_tokenizer,
    require_finite,
    require_folder,
)
from utils.errors import UserError

CLIP_TEXT = ModelKind(
    option="--clip_dir",
    model_type="clip",
    example="openai/clip-vit-base-patch32",
    files=(
        "config.json",
        " or ".join(WEIGHTS),
        "tokenizer.json or vocab.json and merges.txt",
    ),
)
CLIP = ModelKind(
    option=CLIP_TEXT.option,
    model_type=CLIP_TEXT.model_type,
    example=CLIP_TEXT.example,
    files=(*CLIP_TEXT.files, "preprocessor_config.json or processor_config.json"),
)
PROMPT = "a photo of a {}"
TEXT_BATCH = 64  # texts; it changes the speed, and the vectors by rounding only
# the end-of-text id in configurations of CLIP's first release, which pool at the largest id
LEGACY_END_ID = 2


@dataclass(frozen=True)
class TextModel:
    """A CLIP network with its tokenizer."""

    folder: Path  # where they come from
    network: Any  # transformers' CLIPModel, in evaluation mode
    tokenizer: Any
    device: str


def clip_word_vectors(folder: Path, words: Sequence[str], device: str) -> np.ndarray:
    """Return CLIP's projected text vector of "a photo of a WORD" for each word.

    Args:
        folder: Of a CLIP model for transformers: configuration, weights, vocabulary.
        words: W words.
        device: To run on.

    Returns:
        (W, D) float32, not normalised.

    Raises:
        UserError: transformers is not installed, the folder holds no CLIP model, or its weights
            are damaged.
    """
    model = load_text_model(folder, device)
    return text_vectors(model, [PROMPT.format(word) for word in words])


def load_text_model(folder: Path, device: str, kind: ModelKind = CLIP_TEXT) -> TextModel:
    """Load what embeds texts.

    Args:
        folder: Of a CLIP model for transformers.
        device: To run on.
        kind: ``CLIP`` where the image processor is needed, too.

    Raises:
        UserError: transformers is not installed, or the folder holds no CLIP model.
    """
    require_folder(folder, kind)
    network = load_network("CLIPModel", folder, kind, device)
    config = network.config.text_config
    tokenizer = load_tokenizer("CLIPTokenizer", folder, kind, config.vocab_size)
    # the network reads a text's vector off the end-of-text token, wherever it believes it to be
    largest = max(tokenizer.get_vocab().values())
    expected = largest if config.eos_token_id == LEGACY_END_ID else config.eos_token_id
    if tokenizer.eos_token_id != expected:
        raise UserError(
            f"texts end with token {tokenizer.eos_token_id} by the tokenizer in {folder} and with "
            f"{expected} by the network, so they do not belong together; {kind.advice()}"
        )
    return TextModel(folder, network, tokenizer, device)


def text_vectors(model: TextModel, texts: Sequence[str]) -> np.ndarray:
    """Return the projected vectors of W texts, (W, D) float32, not normalised.

    Raises:
        UserError: a vector is not finite.
    """
    network, longest = model.network, model.network.config.text_config.max_position_embeddings
    vectors = np.zeros((len(texts), network.config.projection_dim), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), TEXT_BATCH):
            batch = texts[start : start + TEXT_BATCH]
            inputs, _ = encode(model.tokenizer, batch, longest, model.device)
            projected = network.get_text_features(**inputs).pooler_output  # (B, D)
            vectors[start : start + len(batch)] = projected.cpu().numpy()
    require_finite(vectors, model.folder, CLIP_TEXT)
    return vectors


@dataclass(frozen=True)
class ImageReader:
    """Reads image files as the network wants them, with the folder's own image processor."""

    processor: Any  # transformers' CLIPImageProcessorPil

    def prepare(self, image: Any) -> np.ndarray:
        """Return a Pillow image in RGB as the network wants it, (3, S, S) float32."""
        prepared: np.ndarray = self.processor(image, return_tensors="np").pixel_values[0]
        return prepared.astype(np.float32, copy=False)


def load_image_reader(folder: Path, model: TextModel) -> ImageReader:
    """Load the image processor that belongs to a model from the model's folder.

    Raises:
        UserError: the processor is missing or its images do not fit the network.
    """
    from PIL import Image

    # Pillow resizes as the authors of CLIP do; torchvision differs in the last digits
    reader = ImageReader(load_part("CLIPImageProcessorPil", folder, CLIP))
    size = model.network.config.vision_config.image_size
    try:
        shape = reader.prepare(Image.new("RGB", (2 * size, size + 1))).shape
    except Exception as error:  # many kinds, for settings that are no preprocessing of images
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the image processor in {folder} prepares no image ({type(error).__name__}: "
            f"{reason}); {CLIP.advice()}"
        ) from None
    if shape != (3, size, size):
        raise UserError(
            f"the image processor in {folder} gives images of shape {shape} and the network takes "
            f"(3, {size}, {size}), so they do not belong together; {CLIP.advice()}"
        )
    return reader


def image_text_similarities(
    folder: Path,
    paths: Sequence[Path],
    texts: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    device: str,
) -> np.ndarray:
    """Return the cosine similarity of the CLIP vectors of images and texts.

    Args:
        folder: Of a CLIP model for transformers, with its image processor.
        paths: N image files.
        texts: W texts.
        batch_size: Images in one pass; it changes the similarities by rounding only.
        workers: Processes that read images ahead; 0 reads in this process.
        device: To run on.

    Returns:
        (N, W) float32 in -1..1.

    Raises:
        UserError: transformers is not installed, the folder holds no CLIP model, its weights are
            damaged, or an image is missing or unreadable.
    """
    model = load_text_model(folder, device, CLIP)
    reader = load_image_reader(folder, model)
    text = text_vectors(model, texts)  # (W, D)
    image = image_vectors(model, reader, paths, batch_size=batch_size, workers=workers)  # (N, D)
    cosines: np.ndarray = _unit_length(image) @ _unit_length(text).T  # (N, W)
    return cosines


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return (N, D) vectors scaled to length 1; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, 1)
    return vectors / np.where(lengths == 0, 1, lengths)


def image_vectors(
    model: TextModel,
    reader: ImageReader,
    paths: Sequence[Path],
    *,
    batch_size: int,
    workers: int,
) -> np.ndarray:
    """Return the projected vectors of N image files, (N, D) float32, not normalised.

    Raises:
        UserError: an image is missing or unreadable, or a vector is not finite.
    """
    from tqdm import tqdm

    vectors = np.zeros((len(paths), model.network.config.projection_dim), dtype=np.float32)
    bounds = [*range(0, len(paths), batch_size), len(paths)]
    batches = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    with torch.inference_mode(), tqdm(total=len(paths), unit="image", disable=None) as progress:
        images = ImageSet(Path(), [str(path) for path in paths], 0, prepare=reader.prepare)
        loaded = load_images(images, batches, workers)
        for batch, pixels in zip(batches, loaded, strict=True):
            projected = model.network.get_image_features(
                pixels.to(model.device)
            ).pooler_output  # (B, D)
            vectors[batch] = projected.cpu().numpy()
            require_finite(vectors[batch], model.folder, CLIP)  # before all images are read
            progress.update(len(pixels))
    return vectors
