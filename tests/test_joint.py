"""The joint step: both bit matrices come from the predictions before either update."""

import torch
from torch import nn
from torch.nn import functional

from models_src.joint import ShareThresholds, VoteOdds, joint_step
from models_src.text_encoders.count import CountTextEncoder

C, B = 4, 6


class LinearVisual(nn.Module):
    """The smallest visual encoder: one linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 2 * 2, C)

    def forward(self, images):
        return self.linear(images.flatten(1))


class RecordingText:
    """A text encoder that changes its scores when it learns, and records what it was taught."""

    cluster_num = C

    def __init__(self, scores):
        self.scores = scores
        self.voted = torch.ones(C, dtype=torch.bool)
        self.taught = None

    def votes(self, tokens):
        return self.scores.clone()

    def update(self, tokens, votes, image_bits):
        self.taught = image_bits.clone()
        self.scores.fill_(0)  # what the visual encoder learns must be from before
        return torch.tensor(0.25)


def test_each_side_learns_the_other_ones_bits_from_before_the_updates():
    torch.manual_seed(0)
    visual = LinearVisual()
    images = torch.randn(B, 3, 2, 2)
    scores = torch.rand(B, C)
    bits_of_captions = scores >= 0.5
    text = RecordingText(scores)
    logits_before = visual(images).detach()
    twin = LinearVisual()
    twin.load_state_dict(visual.state_dict())
    expected = functional.binary_cross_entropy_with_logits(twin(images), bits_of_captions.float())
    optimizer, twin_optimizer = (
        torch.optim.Adam(net.parameters(), lr=0.5) for net in (visual, twin)
    )
    expected.backward()
    twin_optimizer.step()

    result = joint_step(
        visual, optimizer, text, images, torch.arange(B), torch.zeros(B, 1).long(), 0.1, 0.5
    )

    assert torch.equal(text.taught, logits_before >= 0.1)
    assert torch.equal(result.image_bits, logits_before >= 0.1)
    assert torch.equal(result.caption_bits, bits_of_captions)
    assert result.visual_loss == expected
    assert result.text_loss == 0.25
    for own, other in zip(visual.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)
    assert not torch.equal(visual(images), logits_before)


def test_an_image_encoded_once_teaches_as_one_encoded_for_each_caption():
    torch.manual_seed(0)
    visual, twin = LinearVisual(), LinearVisual()
    twin.load_state_dict(visual.state_dict())
    images, of_caption = torch.randn(3, 3, 2, 2), torch.tensor([2, 0, 0, 1, 2, 0])
    scores = torch.rand(B, C)
    results = []
    for network, given, positions in (
        (visual, images, of_caption),
        (twin, images[of_caption], torch.arange(B)),
    ):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        text = RecordingText(scores.clone())
        tokens = torch.zeros(B, 1).long()
        results.append(joint_step(network, optimizer, text, given, positions, tokens, 0.1, 0.5))
    assert torch.equal(results[0].image_bits, results[1].image_bits)
    torch.testing.assert_close(results[0].visual_loss, results[1].visual_loss)
    for own, other in zip(visual.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_thresholds_are_reached_by_equality():
    visual = LinearVisual()
    nn.init.zeros_(visual.linear.weight)
    nn.init.constant_(visual.linear.bias, 0.5)
    text = RecordingText(torch.full((B, C), 0.08))
    optimizer = torch.optim.Adam(visual.parameters())
    images, tokens = torch.randn(B, 3, 2, 2), torch.zeros(B, 1).long()
    result = joint_step(visual, optimizer, text, images, torch.arange(B), tokens, 0.5, 0.08)
    assert result.image_bits.all()
    assert result.caption_bits.all()


def test_random_start_teaches_random_votes_and_spares_the_text_encoder():
    torch.manual_seed(0)
    visual, text = LinearVisual(), RecordingText(torch.ones(B, C))
    optimizer = torch.optim.Adam(visual.parameters())
    images, tokens = torch.randn(B, 3, 2, 2), torch.arange(B)[:, None]
    result = joint_step(
        visual,
        optimizer,
        text,
        images,
        torch.arange(B),
        tokens,
        0.5,
        0.08,
        random_votes=True,
        teach_text=False,
    )
    assert torch.equal(result.caption_bits, torch.eye(C, dtype=torch.bool)[torch.arange(B) % C])
    assert text.taught is None
    joint_step(
        visual, optimizer, text, images, torch.arange(B), tokens, 0.5, 0.08, random_votes=True
    )
    assert text.taught is not None


def step_with(visual, text, images, **options):
    """Take a step on B pairs whose captions the recording text encoder scores."""
    optimizer, tokens = torch.optim.Adam(visual.parameters()), torch.zeros(B, 1).long()
    return joint_step(visual, optimizer, text, images, torch.arange(B), tokens, 0.1, 0.5, **options)


def test_with_shares_the_text_encoder_learns_each_clusters_share_of_the_images():
    torch.manual_seed(0)
    visual, text = LinearVisual(), RecordingText(torch.rand(B, C))
    text.voted[1] = False
    images = torch.randn(B, 3, 2, 2)
    logits = visual(images).detach()
    result = step_with(visual, text, images, shares=ShareThresholds(1 / 3))
    best_two = logits.topk(2, dim=0).indices
    expected = torch.zeros(B, C, dtype=torch.bool).scatter_(0, best_two, True)
    expected[:, 1] = False  # no word votes for it
    assert torch.equal(text.taught, expected)
    assert torch.equal(result.image_bits, logits >= 0.1)


def test_share_thresholds_follow_the_logits():
    generator = torch.Generator().manual_seed(0)
    shares = ShareThresholds(0.1)
    passed = []
    for step in range(2000):
        logits = (
            torch.randn(50, C, generator=generator) * torch.tensor([1, 2, 0.5, 1]) + 3e-3 * step
        )
        passed.append(shares.bits(logits).float().mean(dim=0))
    torch.testing.assert_close(
        torch.stack(passed[1000:]).mean(dim=0), torch.full((C,), 0.1), atol=0.02, rtol=0
    )


def test_with_odds_the_cnn_learns_what_images_add_to_how_often_captions_vote():
    torch.manual_seed(0)
    visual, text = LinearVisual(), RecordingText((torch.rand(B, C) < 0.4).float())
    text.voted[2] = False
    images = torch.randn(B, 3, 2, 2)
    logits = visual(images).detach()
    result = step_with(visual, text, images, odds=VoteOdds())
    shares = result.caption_bits.float().mean(dim=0).clamp(1e-3, 1 - 1e-3)
    prior = torch.log(shares / (1 - shares)) * torch.tensor([1, 1, 0, 1])
    votes = result.caption_bits.float()
    expected = functional.binary_cross_entropy_with_logits(logits + prior, votes)
    torch.testing.assert_close(result.visual_loss, expected)
    assert torch.equal(result.image_bits, logits >= 0.1)


def test_vote_odds_follow_the_votes():
    odds = VoteOdds()
    odds.follow(torch.zeros(10, 2, dtype=torch.bool))
    for _ in range(200):
        found = odds.follow(torch.tensor([[True, False], [False, False]]))
    torch.testing.assert_close(found, torch.logit(torch.tensor([0.5, 1e-3])), atol=1e-3, rtol=0)


def test_two_untrained_encoders_agree_in_the_end():
    """Four kinds of pairs, each with an image and a word of its own."""
    torch.manual_seed(3)
    visual, text = LinearVisual(), CountTextEncoder("generative", ("a", "b", "c", "d"), 8)
    visual.linear = nn.Linear(12, 8)
    optimizer = torch.optim.Adam(visual.parameters(), lr=0.05)
    kinds = torch.arange(4).repeat(8)
    images = torch.eye(12)[kinds].view(-1, 3, 2, 2) * 4
    for _ in range(200):
        result = joint_step(
            visual, optimizer, text, images, torch.arange(32), kinds[:, None], 0.5, 0.08
        )
    assert torch.equal(result.image_bits, result.caption_bits)
    assert len({tuple(row.tolist()) for row in result.image_bits}) > 1
