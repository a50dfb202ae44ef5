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

# words that no rule of the tokenizer splits
WORDS = ("dog", "cat", "tree", "house", "red", "green", "runs", "street", "über", "9")
MARKS = (",", ".", "!", "?", ";")


def random_texts(seed, count=60):
    """Texts with their tokens: words and marks between blanks, in any case; some are empty."""
    rng = np.random.default_rng(seed)
    pool = WORDS + MARKS
    weights = rng.dirichlet(np.ones(len(pool)))
    tokens = [list(rng.choice(pool, rng.integers(0, 9), p=weights)) for _ in range(count)]
    blanks = [" ", "  ", "\t", " \n "]
    texts = [
        "".join(
            (token.upper() if rng.random() < 0.3 else token) + blanks[rng.integers(4)]
            for token in caption
        )
        for caption in tokens
    ]
    return texts, [[str(token) for token in caption] for caption in tokens]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog's  toy, don't\n", ["a", "dog", "'s", "toy", ",", "do", "n't"]),
        ("Two CATS.", ["two", "cats", "."]),
        ('A "big" (red) bus!', ["a", '"', "big", '"', "(", "red", ")", "bus", "!"]),
        ("a two-wheeled cart", ["a", "two", "-", "wheeled", "cart"]),
        ("a\u00a0b\u2003c \t\r\n", ["a", "b", "c"]),
        (" \n\t ", []),
        ("", []),
    ],
)
def test_text_is_split_into_lower_case_tokens_with_punctuation_and_no_white_space(text, tokens):
    assert list(tokenize([text])) == [tokens]


def test_tokens_are_those_of_spacy_unchanged():
    tokenizer = spacy.blank("en").tokenizer
    rng = np.random.default_rng(0)
    # everything that the rules treat in a way of its own, with and without blanks between
    pool = [
        *tokenizer.rules,
        "dog",
        "12km",
        "(a",
        "u.s.",
        "5-6",
        "x,y...",
        "http://a.b/c",
        "\u00a0",
    ]
    texts = [
        " ".join(rng.choice(pool, 3)) + "".join(rng.choice(pool, 2)) for _ in range(3 * len(pool))
    ]
    expected = [
        [token.text for token in tokenizer(text.lower()) if not token.is_space] for text in texts
    ]
    assert list(tokenize(texts)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_vocabulary_is_by_falling_count_then_alphabet(seed):
    texts, tokens = random_texts(seed)
    counter = Counter(token for caption in tokens for token in caption)
    expected = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    vocabulary, _ = build_vocabulary(texts)
    assert list(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True)) == expected
    assert vocabulary.counts.dtype == np.int64


def test_words_of_equal_count_stand_in_alphabetical_order_not_of_appearance():
    vocabulary, _ = build_vocabulary(["tree cat house", "house dog", "cat tree"])
    assert vocabulary.words == ("cat", "house", "tree", "dog")
    assert vocabulary.counts.tolist() == [2, 2, 2, 1]


@pytest.mark.parametrize("seed", range(3))
def test_packed_captions_spell_the_texts(seed):
    texts, tokens = random_texts(seed)
    vocabulary, captions = build_vocabulary(texts)
    assert len(captions) == len(texts)
    assert captions.offsets[0] == 0
    assert captions.offsets[-1] == len(captions.tokens)
    assert (captions.tokens.dtype, captions.offsets.dtype) == (np.int32, np.int64)
    spelled = [
        [vocabulary.words[token] for token in captions.tokens[start:end]]
        for start, end in zip(captions.offsets[:-1], captions.offsets[1:], strict=True)
    ]
    assert spelled == tokens


def test_no_texts_and_texts_without_tokens_give_an_empty_vocabulary():
    for texts in ([], ["", "  \n"]):
        vocabulary, captions = build_vocabulary(texts)
        assert vocabulary.words == ()
        assert vocabulary.counts.shape == (0,)
        assert len(captions) == len(texts)
        assert captions.tokens.shape == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_encoding_with_the_own_vocabulary_gives_the_same_captions(seed):
    texts, _ = random_texts(seed)
    vocabulary, captions = build_vocabulary(texts)
    again = encode_captions(texts, vocabulary.words)
    np.testing.assert_array_equal(again.tokens, captions.tokens)
    np.testing.assert_array_equal(again.offsets, captions.offsets)


def test_words_outside_the_vocabulary_are_unknown_in_their_place():
    captions = encode_captions(["A dog, a zebra", "Zebra", "", "dog"], ["dog", ",", "a"])
    assert captions.tokens.tolist() == [2, 0, 1, 2, UNKNOWN, UNKNOWN, 0]
    assert captions.offsets.tolist() == [0, 5, 6, 6, 7]


@pytest.mark.parametrize("seed", range(3))
def test_padded_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    captions = [rng.integers(-1, 50, rng.integers(0, 7)).tolist() for _ in range(30)]
    captions[seed] = captions[29] = []
    packed = TokenizedCaptions(
        np.array([token for caption in captions for token in caption], dtype=np.int32),
        np.cumsum([0, *map(len, captions)]),
    )
    for chosen in (rng.integers(0, 30, 8), np.arange(30), np.array([29]), np.array([29, seed])):
        width = max(1, *(len(captions[caption]) for caption in chosen))
        expected = [
            captions[caption] + [PADDING] * (width - len(captions[caption])) for caption in chosen
        ]
        padded = packed.padded(chosen)
        assert padded.dtype == np.int64
        assert padded.tolist() == expected


def test_padding_no_caption_or_captions_without_any_token_gives_one_column():
    packed = TokenizedCaptions(np.zeros(0, dtype=np.int32), np.zeros(4, dtype=np.int64))
    assert packed.padded(np.array([], dtype=np.int64)).shape == (0, 1)
    assert packed.padded(np.array([0, 2])).tolist() == [[PADDING], [PADDING]]
