"""Text encoders against literal transcriptions of their definitions."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from datasets_src.captions import PADDING, UNKNOWN
from models_src.settings import TrainingSettings
from models_src.text_encoders import TEXT_ENCODERS
from models_src.text_encoders.count import CountTextEncoder
from models_src.text_encoders.interface import build_text_encoder, random_start_scores
from models_src.text_encoders.word_votes import (
    EVEN_OCCURRENCES,
    FEWEST_OCCURRENCES,
    Votes,
    choose_votes,
)

WORDS = tuple(f"w{index}" for index in range(9))
C = 6


def settings(**values) -> TrainingSettings:
    small = {
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


def learn(encoder, tokens, targets) -> float:
    return encoder.update(tokens, encoder.votes(tokens), targets).item()


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
@pytest.mark.parametrize("seed", range(3))
def test_count_model_equals_dictionary_transcription(mode, seed):
    rng = np.random.default_rng(seed)
    encoder = CountTextEncoder(mode, WORDS, C)
    reference = DictionaryCounts(mode, C)
    for _ in range(4):
        captions = random_captions(rng, 6)
        captions[0] = [UNKNOWN, *captions[0]]
        tokens = padded(captions)
        bits = torch.tensor(rng.random((6, C)) < 0.3)
        scores = encoder.score(tokens)
        expected = [reference.scores(caption) for caption in captions]
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12, atol=0)
        encoder.update(tokens, scores, bits)
        reference.learn(captions, bits.tolist())
    table = [reference.posterior(word) for word in range(len(WORDS))]
    np.testing.assert_allclose(encoder.word_posteriors().numpy(), table, rtol=1e-12, atol=0)


def test_count_model_ties_go_to_the_lowest_cluster():
    encoder = CountTextEncoder("discriminative", WORDS, C)
    tokens = padded([[0]])
    learn(encoder, tokens, torch.tensor([[False, True, False, True, False, False]]))
    assert encoder.score(tokens).tolist() == [[0, 0.5, 0, 0, 0, 0]]


def test_a_cluster_that_fires_for_everything_is_divided_by_its_size():
    """In a generative model the rare cluster wins the word it belongs to."""
    encoder = CountTextEncoder("generative", WORDS, 2)
    captions = [[0, 1], [2, 3], [4, 5], [6, 7]]
    bits = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    learn(encoder, padded(captions), bits)
    assert encoder.word_posteriors()[0].argmax() == 1
    assert encoder.word_posteriors()[2].argmax() == 0


def test_untrained_count_model_knows_no_word():
    encoder = CountTextEncoder("generative", WORDS, C)
    assert encoder.score(padded([[0, 1], []])).tolist() == [[0.0] * C] * 2
    assert encoder.word_posteriors().sum() == 0


def train_steps(encoder, seed, count, share=0.4) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tokens = padded(random_captions(rng, 5))
        learn(encoder, tokens, torch.tensor(rng.random((5, C)) < share))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_loss_is_the_cross_entropy_of_tokens_alone_or_in_a_batch(kind, layers):
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(text_encoder=kind, text_layers=layers), WORDS)
    train_steps(encoder, 0, 5)
    captions = [[0, 1, 2], [3, UNKNOWN], [4, 5], []]
    clusters = [(0, 4), (2,), (), (0, 3)]
    targets = torch.zeros(4, C, dtype=torch.bool)
    expected = 0.0
    for row, (caption, active) in enumerate(zip(captions, clusters, strict=True)):
        targets[row, list(active)] = True
        # each caption alone, unpadded: what stands around it changes nothing
        tokens = torch.tensor([caption or [UNKNOWN]])
        alone = encoder.word_logits(tokens[tokens >= 0])
        logits = encoder.network(tokens, alone).detach().double()
        for token in logits:
            chances = torch.softmax(token, dim=0)
            losses = [-chances[cluster].log().item() for cluster in active]
            expected += sum(losses) / max(1, len(active)) / len(logits) / 4
    assert learn(encoder, padded(captions), targets) == pytest.approx(expected, rel=1e-5)


def test_a_word_alone_has_the_posterior_that_its_images_count_for():
    encoder = build_text_encoder(settings(), WORDS)
    targets = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0] * C], dtype=torch.bool)
    learn(encoder, padded([[3, 5], [3], [3]]), targets)
    prior = np.array([2.0, 1, 0, 0, 0, 0]) / 3 + 1e-4  # two tokens share two clusters, one has one
    prior /= prior.sum()
    counted = np.array([1.5, 0.5, 0, 0, 0, 0])  # the third caption's image says nothing
    expected = (counted + EVEN_OCCURRENCES * prior) / (2 + EVEN_OCCURRENCES)
    found = encoder.word_logits(torch.tensor([3]))[0].exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_recurrent_learns_nothing_from_empty_captions():
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(), WORDS)
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    assert learn(encoder, padded([[], [UNKNOWN]]), torch.ones(2, C, dtype=torch.bool)) == 0
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_words_come_to_vote_for_what_their_images_show_and_others_fall_silent(kind):
    """Words w, w + 3 stand for cluster w; words 6 to 8 stand in any caption."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = build_text_encoder(settings(text_encoder=kind, voting_share=0.6), WORDS)
    assert encoder.votes(padded([[7]])).tolist() == [[0, 1, 0, 0, 0, 0]]  # 7 mod 6, at random

    def steps(count):
        for _ in range(count):
            topics = rng.integers(3, size=16)
            names = topics + 3 * (rng.random(16) < 0.3)
            captions = [[int(rng.integers(6, 9)), int(name)] for name in names]
            learn(encoder, padded(captions), torch.eye(C, dtype=torch.bool)[topics])

    steps(100)
    encoder.revise_votes()
    assert len(set(encoder.vote_clusters[:6].tolist())) == 3
    for word in range(3):
        captions = padded([[word, 8], [word + 3], [7, word]])
        scores = encoder.votes(captions)
        assert (scores > 0).sum(dim=1).tolist() == [1, 1, 1]
        assert len(set(scores.argmax(dim=1).tolist())) == 1
    assert encoder.votes(padded([[6, 7, 8], []])).sum() == 0
    steps(20)
    encoder.refresh_word_table([padded([[5, 0], [6, 1], [7, 2], [8, 3], [4, 6]])] * 200)
    table = encoder.word_posteriors()
    torch.testing.assert_close(table.sum(dim=1), torch.ones(len(WORDS), dtype=torch.float64))
    assert table[:6].max(dim=1).values.min() > table[6:].max()


def test_votes_equal_a_transcription_of_their_definition():
    rng = np.random.default_rng(0)
    words, clusters = 40, 12
    kinds = rng.integers(4, size=words)
    sums = rng.gamma(15, size=(words, clusters)) + 90 * np.eye(clusters)[kinds]
    occurrences = sums.sum(axis=1)
    before = Votes(
        # most words vote for their kind's cluster already
        np.where(np.arange(words) % 3 == 0, np.arange(words) % clusters, kinds),
        np.ones(words, dtype=bool),
        np.ones(clusters, dtype=bool),
    )
    votes = choose_votes(torch.from_numpy(sums), torch.from_numpy(occurrences), before, 0.8, 0.5)

    prior = sums.sum(axis=0) / sums.sum() + 1e-4
    prior /= prior.sum()
    certainties = []
    for row, count in zip(sums, occurrences, strict=True):
        chances = (row + EVEN_OCCURRENCES * prior) / (count + EVEN_OCCURRENCES)
        certainties.append(sum(max(p - q, 0) for p, q in zip(chances, prior, strict=True)))
    spoken, voting = 0.0, set()
    for word in sorted(range(words), key=lambda word: -certainties[word]):
        spoken += occurrences[word]
        if spoken > 0.8 * occurrences.sum():
            break
        voting.add(word)
    assert set(np.flatnonzero(votes.voting)) == voting
    for kind in range(4):  # words of one kind share a cluster, one that most voted for before
        assert set(votes.clusters[kinds == kind]) == {kind}
    assert np.flatnonzero(votes.voted).tolist() == [0, 1, 2, 3]


def test_no_more_clusters_are_founded_than_there_are():
    rng = np.random.default_rng(0)
    sums = rng.gamma(0.2, size=(60, 5)) * 30
    start = Votes(np.arange(60) % 5, np.ones(60, dtype=bool), np.ones(5, dtype=bool))
    counts = torch.from_numpy(sums), torch.from_numpy(sums.sum(axis=1))
    votes = choose_votes(*counts, start, 1.0, 1e-6)
    assert set(votes.clusters) == set(range(5))


def test_words_that_are_average_in_all_found_nothing():
    counts = torch.full((30, 4), 50.0, dtype=torch.float64), torch.full((30,), 200.0).double()
    start = Votes(np.arange(30) % 4, np.ones(30, dtype=bool), np.ones(4, dtype=bool))
    votes = choose_votes(*counts, start, 1.0, 0.4)
    assert votes is start


def test_word_table_equals_a_transcription_of_its_definition():
    torch.manual_seed(0)
    encoder = build_text_encoder(settings(), WORDS)
    train_steps(encoder, 0, 10)
    captions = [[0, 1, 0], [2, 0], [1, UNKNOWN]] * FEWEST_OCCURRENCES
    captions += [[3, 4]]  # too rare to shape a cluster
    encoder.refresh_word_table([padded(captions[:2]), padded(captions[2:])])
    found = defaultdict(list)
    for caption in captions:
        known = [word for word in caption if word >= 0]
        logits = encoder.network(torch.tensor([caption]), encoder.word_logits(torch.tensor(known)))
        rows = torch.softmax(logits, dim=1).detach().double().numpy()
        for word, row in zip(known, rows, strict=True):
            found[word].append(row)
    prior = np.mean([row for rows in found.values() for row in rows], axis=0) + 1e-4
    prior /= prior.sum()
    means = {
        word: np.mean([*rows, *[prior] * EVEN_OCCURRENCES], axis=0) for word, rows in found.items()
    }
    profiles = {}
    for word, mean in means.items():
        lifts = np.maximum(np.log(mean / prior), -1)
        profiles[word] = (lifts - lifts.mean()) / np.linalg.norm(lifts - lifts.mean())
    for word in range(len(WORDS)):
        expected = np.zeros(C)
        if word in found:
            certainty = np.maximum(means[word] - prior, 0).sum()
            expected += (1 - certainty) * means[word]
            # words 0, 1 and 2 vote for the clusters 0, 1 and 2, each alone
            expected[np.argmax([profiles[word] @ profiles[other] for other in range(3)])] += (
                certainty
            )
        np.testing.assert_allclose(encoder.word_posteriors()[word].numpy(), expected, rtol=1e-4)


def test_captions_are_scored_by_the_most_probable_clusters_of_their_words():
    encoder = build_text_encoder(settings(), WORDS)
    encoder.word_table = torch.zeros(len(WORDS), C)
    encoder.word_table[:3, :2] = torch.tensor([[0.5, 0.25], [0.375, 0.125], [0.25, 0.75]])
    scores = encoder.score(padded([[0, 1, 2], [1, UNKNOWN], [8]]))
    assert scores[:, :2].tolist() == [[0.5, 0.75], [0.375, 0], [0, 0]]
    assert not scores[:, 2:].any()


def test_random_start_gives_each_word_a_fixed_cluster():
    captions = [[0, 4, 6], [], [UNKNOWN, 1]]
    scores = random_start_scores(padded(captions), C)
    for row, caption in zip(scores.tolist(), captions, strict=True):
        voted = {word % C for word in caption if word >= 0}
        assert row == [float(cluster in voted) for cluster in range(C)]


def test_on_a_cpu_the_lstm_computes_in_32_bits():
    weights = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        encoder = build_text_encoder(settings(precision=precision), WORDS, "cpu")
        train_steps(encoder, 1, 2)
        weights.append(encoder.network.state_dict()["recurrent.weight_hh_l0"])
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", list(TEXT_ENCODERS))
def test_state_and_training_state_continue_exactly(kind, tmp_path):
    def fresh(seed):
        torch.manual_seed(seed)
        return build_text_encoder(settings(text_encoder=kind), WORDS)

    straight = fresh(0)
    train_steps(straight, 1, 2)
    straight.revise_votes()
    torch.save(straight.training_state_dict(), tmp_path / "state")
    train_steps(straight, 2, 4)
    continued = fresh(9)
    continued.load_training_state_dict(torch.load(tmp_path / "state", weights_only=True))
    train_steps(continued, 2, 4)
    tokens = padded([[0, 1, 2], [3, 4]])
    assert torch.equal(straight.score(tokens), continued.score(tokens))

    straight.refresh_word_table([tokens])
    torch.save(straight.state_dict(), tmp_path / "model")
    loaded = fresh(8)
    loaded.load_state_dict(torch.load(tmp_path / "model", weights_only=True))
    assert torch.equal(straight.score(tokens), loaded.score(tokens))
    torch.testing.assert_close(straight.word_posteriors(), loaded.word_posteriors())
