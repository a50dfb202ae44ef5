"""Word vectors of BERT (Devlin et al. 2019) and CLIP (Radford et al. 2021), and CLIP's cosines.

The models lie in local folders, in the files of the package transformers; nothing is downloaded.

Axes: N images, W words or texts, B of a batch, L pieces of a text, D numbers of a vector.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_src.images import open_rgb
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
    network: str
    tokenizer: str

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


BERT = PretrainedModel("--bert_dir", "bert-base-uncased", "BertModel", "BertTokenizer")
CLIP = PretrainedModel("--clip_dir", "openai/clip-vit-base-patch32", "CLIPModel", "CLIPTokenizer")


def _load(kind: PretrainedModel, folder: Path, device: str, **arguments: Any) -> tuple[Any, Any]:
    """Return a network in float32, ready for evaluation, and its tokenizer."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder} ({kind.option}); {kind.advice}")
    try:
        import transformers
    except ImportError:
        raise UserError(
            "BERT and CLIP need the package transformers; pip install -r requirements-baselines.txt"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with reading(folder, kind.advice):
        network, report = getattr(transformers, kind.network).from_pretrained(
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
        tokenizer = getattr(transformers, kind.tokenizer).from_pretrained(
            folder, local_files_only=True
        )
        return network.to(device).eval(), tokenizer


def _joined(vectors: Sequence[np.ndarray], dim: int) -> np.ndarray:
    """Return batches of vectors (B, D) as one array."""
    joined = np.concatenate([np.zeros((0, dim), np.float32), *vectors])
    if not np.isfinite(joined).all():
        raise ValueError("it computes numbers that are not finite; its weights are damaged")
    return joined


def bert_word_vectors(folder: Path, words: Sequence[str], device: str) -> np.ndarray:
    """Return the vector that BERT gives each word in "this is a WORD", (W, D) float32.

    It is the mean of the last hidden layer over the word's own pieces.
    """
    # the pooling layer is for sentences; not all models have one
    network, tokenizer = _load(BERT, folder, device, add_pooling_layer=False)
    vectors = []
    with reading(folder, BERT.advice), torch.inference_mode():
        for start in with_bar(range(0, len(words), TEXT_BATCH), "reading words", "batch"):
            inputs = tokenizer(
                [CONTEXT + word for word in words[start : start + TEXT_BATCH]],
                padding=True,
                truncation=True,
                max_length=network.config.max_position_embeddings,
                return_offsets_mapping=True,
                return_tensors="pt",
            ).to(device)
            # the word is the sentence's end: its pieces are those that reach into it
            own = inputs.pop("offset_mapping")[:, :, 1] > len(CONTEXT)  # (B, L)
            hidden = network(**inputs).last_hidden_state  # (B, L, D)
            weights = own / own.sum(dim=1, keepdim=True)  # (B, L)
            vectors.append(torch.einsum("bl,bld->bd", weights, hidden).cpu().numpy())
        return _joined(vectors, network.config.hidden_size)


def clip_word_vectors(folder: Path, words: Sequence[str], device: str) -> np.ndarray:
    """Return CLIP's projected text vector of "a photo of a WORD" for each word, (W, D) float32."""
    network, tokenizer = _load(CLIP, folder, device)
    with reading(folder, CLIP.advice):
        return _text_vectors(network, tokenizer, [PROMPT.format(word) for word in words])


def _text_vectors(network: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(texts), TEXT_BATCH):
            inputs = tokenizer(
                list(texts[start : start + TEXT_BATCH]),
                padding=True,
                truncation=True,
                max_length=network.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(network.device)
            vectors.append(network.get_text_features(**inputs).pooler_output.cpu().numpy())
    return _joined(vectors, network.config.projection_dim)


def image_text_similarities(
    folder: Path,
    paths: Sequence[Path],
    texts: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    device: str,
) -> np.ndarray:
    """Return the cosine similarity of the CLIP vectors of images and texts, (N, W) float32.

    ``workers`` are threads that read images; ``batch_size`` changes the result by rounding only.
    """
    network, tokenizer = _load(CLIP, folder, device)
    import transformers

    with reading(folder, CLIP.advice):
        # Pillow resizes as the authors of CLIP do; torchvision differs in the last digits
        processor = transformers.CLIPImageProcessorPil.from_pretrained(
            folder, local_files_only=True
        )

    def read(path: Path) -> np.ndarray:
        pixels: np.ndarray = processor(open_rgb(path), return_tensors="np").pixel_values[0]
        return pixels.astype(np.float32)  # (3, S, S)

    vectors = []
    with (
        reading(folder, CLIP.advice),
        torch.inference_mode(),
        ThreadPoolExecutor(max(workers, 1)) as pool,
    ):
        text = _text_vectors(network, tokenizer, texts)  # (W, D)
        starts = range(0, len(paths), batch_size)
        for start in with_bar(starts, "reading images", "batch"):
            pixels = torch.from_numpy(
                np.stack(list(pool.map(read, paths[start : start + batch_size])))
            )
            features = network.get_image_features(pixels.to(device)).pooler_output  # (B, D)
            vectors.append(features.cpu().numpy())
        image = _joined(vectors, network.config.projection_dim)  # (N, D)
    cosines: np.ndarray = _unit_length(image) @ _unit_length(text).T  # (N, W)
    return cosines


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return (N, D) vectors scaled to length 1; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, 1)
    return vectors / np.where(lengths == 0, 1, lengths)
