"""Word vectors of BERT (Devlin et al. 2019).

Axes: W words, B of them in a batch, L pieces of a sentence, D numbers of a vector.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models_src.baselines.transformers_models import (
    WEIGHTS,
    ModelKind,
    encode,
    load_network,
    load_tokenizer,
    require_finite,
    require_folder,
)
from utils.errors import UserError
from utils.progress import with_bar

BERT = ModelKind(
    option="--bert_dir",
    model_type="bert",
    example="bert-base-uncased",
    files=("config.json", " or ".join(WEIGHTS), "tokenizer.json or vocab.txt"),
)
CONTEXT = "this is a "  # the word follows it
BATCH_SIZE = 64  # words; it changes the speed, and the vectors by rounding only


def bert_word_vectors(folder: Path, words: Sequence[str], device: str) -> np.ndarray:
    """Return the vector that BERT gives each word in "this is a WORD".

    It is the mean of the last hidden layer over the word's own pieces.

    Args:
        folder: Of a BERT model for transformers: configuration, weights, vocabulary.
        words: W words; one may consist of several pieces, as those with hyphens do.
        device: To run on.

    Returns:
        (W, D) float32.

    Raises:
        UserError: transformers is not installed, the folder holds no BERT model, its weights are
            damaged, or a word consists of nothing but characters that BERT ignores.
    """
    require_folder(folder, BERT)
    # the pooling layer is for sentences; not all models have one
    network = load_network("BertModel", folder, BERT, device, add_pooling_layer=False)
    tokenizer = load_tokenizer("BertTokenizer", folder, BERT, network.config.vocab_size)
    vectors = np.zeros((len(words), network.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in with_bar(range(0, len(words), BATCH_SIZE), "reading words", "batch"):
            batch = words[start : start + BATCH_SIZE]
            inputs, offsets = encode(
                tokenizer,
                [CONTEXT + word for word in batch],
                network.config.max_position_embeddings,
                device,
            )
            # the word is the sentence's end: its pieces are those that reach into it
            own = (offsets[:, :, 1] > len(CONTEXT)).to(device)  # (B, L)
            for word, piece_count in zip(batch, own.sum(dim=1).tolist(), strict=True):
                if not piece_count:
                    raise UserError(
                        f"BERT reads nothing in the word {word!r}; remove it from the word files"
                    )
            hidden = network(**inputs).last_hidden_state  # (B, L, D)
            weights = own / own.sum(dim=1, keepdim=True)  # (B, L)
            means = torch.einsum("bl,bld->bd", weights, hidden)  # (B, D)
            vectors[start : start + len(batch)] = means.cpu().numpy()
    require_finite(vectors, folder, BERT)
    return vectors
