from collections import Counter

import numpy as np
import pytest
import spacy

from datasets_src.captions import (
    PADDING,
    UNKNOWN,
    TokenizedCaptions,
    build_vocabulary,
    encode_captions,
    tokenize,
)

# words and marks that no rule of the tokenizer splits
WORDS = ("dog", "cat", "tree", "house", "red", "green", "über", "9", ",", ".", "!", "?", ";")


def random_texts(seed, count=60):
    """Texts with their tokens: words between blanks, in any case; some are empty."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(len(WORDS)))
    tokens = [rng.choice(WORDS, rng.integers(0, 9), p=weights).tolist() for _ in range(count)]
    blanks = [" ", "  ", "\t", " \n "]
    texts = [
        "".join(
            (token.upper() if rng.random() < 0.3 else token) + blanks[rng.integers(4)]
            for token in caption
        )
        for caption in tokens
    ]
    return texts, tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog's  toy, don't\n", ["a", "dog", "'s", "toy", ",", "do", "n't"]),
        ('A "big" (red) BUS!', ["a", '"', "big", '"', "(", "red", ")", "bus", "!"]),
        ("a two-wheeled cart", ["a", "two", "-", "wheeled", "cart"]),
        ("a\u00a0b\u2003c \t\r\n", ["a", "b", "c"]),
        (" \n\t ", []),
    ],
)
def test_text_is_split_into_lower_case_tokens_with_punctuation_and_no_white_space(text, tokens):
    assert list(tokenize([text])) == [tokens]


def test_tokens_are_those_of_spacy_unchanged():
    tokenizer = spacy.blank("en").tokenizer
    rng = np.random.default_rng(0)
    # everything that the rules treat in a way of its own, with and without blanks between
    others = ["dog", "12km", "(a", "u.s.", "5-6", "x,y...", "http://a.b/c", "\u00a0"]
    pool = [*tokenizer.rules, *others]
    texts = [
        " ".join(rng.choice(pool, 3)) + "".join(rng.choice(pool, 2)) for _ in range(3 * len(pool))
    ]
    assert list(tokenize(texts)) == [
        [token.text for token in tokenizer(text.lower()) if not token.is_space] for text in texts
    ]


@pytest.mark.parametrize("seed", range(3))
def test_captions_spell_the_texts_in_words_by_falling_count_then_alphabet(seed):
    texts, tokens = random_texts(seed)
    counter = Counter(token for caption in tokens for token in caption)
    expected = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    vocabulary, captions = build_vocabulary(texts)
    assert list(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True)) == expected
    assert (captions.tokens.dtype, captions.offsets.dtype) == (np.int32, np.int64)
    pieces = np.split(captions.tokens, captions.offsets[1:-1])
    assert [[vocabulary.words[token] for token in piece] for piece in pieces] == tokens
    again = encode_captions(texts, vocabulary.words)
    np.testing.assert_array_equal(again.tokens, captions.tokens)
    np.testing.assert_array_equal(again.offsets, captions.offsets)


def test_vocabulary_and_unknown_words_by_hand():
    vocabulary, _ = build_vocabulary(["tree cat house", "house dog", "cat tree"])
    assert vocabulary.words == ("cat", "house", "tree", "dog")
    assert vocabulary.counts.tolist() == [2, 2, 2, 1]
    captions = encode_captions(["A dog, a zebra", "Zebra", "", "dog"], ["dog", ",", "a"])
    assert captions.tokens.tolist() == [2, 0, 1, 2, UNKNOWN, UNKNOWN, 0]
    assert captions.offsets.tolist() == [0, 5, 6, 6, 7]
    for texts in ([], ["", "  \n"]):
        vocabulary, captions = build_vocabulary(texts)
        assert (vocabulary.words, len(captions), len(captions.tokens)) == ((), len(texts), 0)


@pytest.mark.parametrize("seed", range(3))
def test_padded_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    captions = [rng.integers(-1, 50, rng.integers(0, 7)).tolist() for _ in range(30)]
    captions[seed] = captions[29] = []
    packed = TokenizedCaptions(np.hstack(captions).astype(int), np.cumsum([0, *map(len, captions)]))
    for chosen in (rng.integers(0, 30, 8), np.arange(30), np.array([29, seed]), np.arange(0)):
        width = max([1, *(len(captions[caption]) for caption in chosen)])
        padded = packed.padded(chosen)
        assert padded.dtype == np.int64
        assert padded.shape == (len(chosen), width)
        assert padded.tolist() == [
            captions[caption] + [PADDING] * (width - len(captions[caption])) for caption in chosen
        ]
