"""Text encoders against literal transcriptions of their definitions."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from datasets_src.captions import PADDING, UNKNOWN
from models_src.groups import group_posteriors
from models_src.settings import TrainingSettings
from models_src.text_encoders import TEXT_ENCODERS, build_text_encoder
from models_src.text_encoders.count import CountTextEncoder
from models_src.text_encoders.interface import caption_scores, random_start_scores
from models_src.text_encoders.recurrent import EVEN_OCCURRENCES

WORDS = tuple(f"w{index}" for index in range(9))
C = 6
K = 3  # clusters of a group, for recurrent encoders


def settings(**values) -> TrainingSettings:
    by_gradient = TEXT_ENCODERS[values.get("text_encoder", "lstm")].by_gradient
    small = {
        "cluster_group_size": K if by_gradient else 1,
        "embedding_dim": 6,
        "hidden_dim": 7,
        "cluster_num": C,
        "text_learning_rate": 0.01,
    }
    return TrainingSettings(**(small | values))


def random_captions(rng, count, longest=6) -> list[list[int]]:
    return [
        [int(word) for word in rng.integers(len(WORDS), size=rng.integers(0, longest + 1))]
        for _ in range(count)
    ]


def padded(captions) -> torch.Tensor:
    length = max(1, *(len(caption) for caption in captions))
    return torch.tensor([[*c, *[PADDING] * (length - len(c))] for c in captions])


class DictionaryCounts:
    """The count models with dictionaries of counts and loops over words, as they are defined."""

    def __init__(self, mode, cluster_num):
        self.mode, self.cluster_num = mode, cluster_num
        self.counts = defaultdict(int)  # (word, cluster) -> N(w,c)

    def learn(self, captions, bits):
        for caption, row in zip(captions, bits, strict=True):
            for word in caption:
                if word >= 0:
                    for cluster in range(self.cluster_num):
                        if row[cluster]:
                            self.counts[word, cluster] += 1

    def posterior(self, word):
        clusters = range(self.cluster_num)
        if self.mode == "discriminative":
            total = sum(self.counts[word, c] for c in clusters)
            return [self.counts[word, c] / total if total else 0.0 for c in clusters]
        likelihood = []
        for cluster in clusters:
            total = sum(n for (_, c), n in self.counts.items() if c == cluster)
            likelihood.append(self.counts[word, cluster] / total if total else 0.0)
        prior = 1 / self.cluster_num
        evidence = sum(p * prior for p in likelihood)
        return [p * prior / evidence if evidence else 0.0 for p in likelihood]

    def scores(self, caption):
        votes = [0.0] * self.cluster_num
        for word in caption:
            if word < 0:
                continue
            posterior = self.posterior(word)
            best = max(range(self.cluster_num), key=lambda c: (posterior[c], -c))
            votes[best] = max(votes[best], posterior[best])
        return votes


@pytest.mark.parametrize("mode", ["generative", "discriminative"])
@pytest.mark.parametrize("seed", range(8))
def test_count_model_equals_dictionary_transcription(mode, seed):
    rng = np.random.default_rng(seed)
    encoder = CountTextEncoder(mode, WORDS, C)
    reference = DictionaryCounts(mode, C)
    for _ in range(4):
        captions = random_captions(rng, 6)
        captions[0] = [UNKNOWN, *captions[0]]
        tokens = padded(captions)
        bits = torch.tensor(rng.random((6, C)) < 0.3)
        reading = encoder.read(tokens)
        expected = [reference.scores(caption) for caption in captions]
        np.testing.assert_allclose(reading.scores.numpy(), expected, rtol=1e-12, atol=0)
        encoder.learn(reading, bits)
        reference.learn(captions, bits.tolist())
    table = [reference.posterior(word) for word in range(len(WORDS))]
    np.testing.assert_allclose(encoder.word_posteriors().numpy(), table, rtol=1e-12, atol=0)


def test_count_model_ties_go_to_the_lowest_cluster():
    encoder = CountTextEncoder("discriminative", WORDS, C)
    tokens = padded([[0]])
    encoder.learn(encoder.read(tokens), torch.tensor([[False, True, False, True, False, False]]))
    assert encoder.read(tokens).scores.tolist() == [[0, 0.5, 0, 0, 0, 0]]


def test_a_cluster_that_fires_for_everything_is_divided_by_its_size():
    """In a generative model the rare cluster wins the word it belongs to."""
    encoder = CountTextEncoder("generative", WORDS, 2)
    captions = [[0, 1], [2, 3], [4, 5], [6, 7]]
    bits = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    encoder.learn(encoder.read(padded(captions)), bits)
    assert encoder.word_posteriors()[0].argmax() == 1
    assert encoder.word_posteriors()[2].argmax() == 0


def test_untrained_count_model_knows_no_word():
    encoder = CountTextEncoder("generative", WORDS, C)
    assert encoder.read(padded([[0, 1], []])).scores.tolist() == [[0.0] * C] * 2
    assert encoder.word_posteriors().sum() == 0


def test_caption_scores_without_any_token():
    scores = caption_scores(torch.zeros(0, C), torch.zeros(0, dtype=torch.long), 3)
    assert scores.tolist() == [[0.0] * C] * 3


def train_steps(encoder, seed, count, share=0.4) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tokens = padded(random_captions(rng, 5))
        encoder.learn(encoder.read(tokens), torch.tensor(rng.random((5, C)) < share))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_scores_do_not_depend_on_the_batch(kind, layers):
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    encoder = build_text_encoder(settings(text_encoder=kind, text_layers=layers), WORDS)
    train_steps(encoder, 0, 20)
    captions = [*random_captions(rng, 12), [], [UNKNOWN, 3], list(range(9))]
    together = encoder.read(padded(captions)).scores
    alone = torch.cat([encoder.read(padded([caption])).scores for caption in captions])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)
    assert alone[12].sum() == 0  # the empty caption
    torch.testing.assert_close(together[13:].sum(dim=1), torch.ones(2))


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


def grouped_softmax(z):
    """Softmax within each group, all groups together summing to 1."""
    return np.concatenate([softmax(z[start : start + K]) for start in range(0, C, K)]) / (C // K)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_scores_are_posteriors_of_the_tokens_mean_scores(kind):
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(text_encoder=kind), WORDS)
    train_steps(encoder, 0, 30)
    captions = [[0, 1, 2], [3, UNKNOWN, 4], [5]]
    expected = []
    for caption in captions:
        by_token = encoder.network(torch.tensor([caption])).detach().double().numpy()
        expected.append(grouped_softmax(by_token.mean(axis=0)))
    scores = encoder.read(padded(captions)).scores
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_loss_is_the_cross_entropy_within_groups(kind):
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(text_encoder=kind), WORDS)
    captions = [[0, 1, 2], [3], [4, 5], []]
    winners = [(0, 4), (2, 3), (1, 5), (0, 3)]
    targets = torch.zeros(4, C, dtype=torch.bool)
    for row, pair in enumerate(winners):
        targets[row, list(pair)] = True
    reading = encoder.read(padded(captions))
    losses = [
        -np.log(reading.scores[row, cluster].item() * (C // K))
        for row in range(3)
        for cluster in winners[row]
    ]
    loss = encoder.learn(reading, targets)
    # the empty caption teaches nothing, but counts
    assert loss.item() == pytest.approx(sum(losses) / (4 * C // K), rel=1e-5)


def test_recurrent_learns_nothing_from_empty_captions():
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(), WORDS)
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    reading = encoder.read(padded([[], [UNKNOWN]]))
    assert encoder.learn(reading, torch.ones(2, C, dtype=torch.bool)).item() == 0
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_learns_which_word_belongs_to_which_cluster(kind):
    """Word w < K stands for cluster w of either group, the others for none."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = build_text_encoder(settings(text_encoder=kind), WORDS)
    for _ in range(300):
        topics = rng.integers(K, size=16)
        captions = [[int(rng.integers(K, 9)), int(topic)] for topic in topics]
        targets = torch.eye(K, dtype=torch.bool)[topics].repeat(1, C // K)
        encoder.learn(encoder.read(padded(captions)), targets)
    encoder.summarise([padded([[5, 0], [6, 1], [7, 2]])] * 200)
    table = encoder.word_posteriors()
    assert table[:K, :K].argmax(dim=1).tolist() == list(range(K))
    assert table[:K].max(dim=1).values.min() > 0.45  # of at most 1 / groups
    assert table[5:8].max() < 0.4


def test_word_table_is_the_mean_over_occurrences_and_five_even_ones():
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(), WORDS)
    train_steps(encoder, 0, 10)
    captions = [[0, 1, 0], [2, 0], [1, UNKNOWN]]
    encoder.summarise([padded(captions[:2]), padded(captions[2:])])
    found = defaultdict(list)
    for caption in captions:
        known = [word for word in caption if word >= 0]
        rows = group_posteriors(encoder.network(torch.tensor([caption])), K).detach().numpy()
        for word, row in zip(known, rows, strict=True):
            found[word].append(row)
    for word in range(len(WORDS)):
        even = np.full((EVEN_OCCURRENCES, C), 1 / C)
        expected = np.mean([*found[word], *even], axis=0) if word in found else np.zeros(C)
        np.testing.assert_allclose(encoder.word_posteriors()[word].numpy(), expected, rtol=1e-4)


def test_a_rare_word_is_less_concrete_than_a_frequent_one_of_the_same_captions():
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(), WORDS)
    train_steps(encoder, 0, 10)
    encoder.summarise([padded([[0, 1]])])
    once = encoder.word_posteriors()
    encoder.summarise([padded([[0, 1]] * 50)])
    often = encoder.word_posteriors()
    assert (often.max(dim=1).values[:2] > once.max(dim=1).values[:2]).all()
    assert torch.equal(often.argmax(dim=1)[:2], once.argmax(dim=1)[:2])
    assert often[2:].sum() == 0  # of words that do not occur nothing is known


def test_random_start_gives_each_word_a_fixed_cluster():
    captions = [[0, 4, 6], [], [UNKNOWN, 1]]
    scores = random_start_scores(padded(captions), C)
    for row, caption in zip(scores.tolist(), captions, strict=True):
        voted = {word % C for word in caption if word >= 0}
        assert row == [float(cluster in voted) for cluster in range(C)]


@pytest.mark.parametrize("kind", list(TEXT_ENCODERS))
def test_state_and_training_state_continue_exactly(kind, tmp_path):
    def fresh(seed):
        torch.manual_seed(seed)
        return build_text_encoder(settings(text_encoder=kind), WORDS)

    straight = fresh(0)
    train_steps(straight, 1, 2)
    torch.save(straight.training_state(), tmp_path / "state")
    train_steps(straight, 2, 4)
    continued = fresh(9)
    continued.load_training_state(torch.load(tmp_path / "state", weights_only=True))
    train_steps(continued, 2, 4)
    tokens = padded([[0, 1, 2], [3, 4]])
    assert torch.equal(straight.read(tokens).scores, continued.read(tokens).scores)

    straight.summarise([tokens])
    torch.save(straight.state(), tmp_path / "model")
    loaded = fresh(8)
    loaded.load_state(torch.load(tmp_path / "model", weights_only=True))
    assert torch.equal(straight.read(tokens).scores, loaded.read(tokens).scores)
    torch.testing.assert_close(straight.word_posteriors(), loaded.word_posteriors())
