"""Batches that go through the CNN in parts, as one whole batch in all but batch normalisation."""

import numpy as np
import pytest
import torch
from torch import nn

from datasets_src.pairs import load_training_pairs
from models_src import visual_encoders
from models_src.hardware import require_compiler
from models_src.joint import joint_step
from models_src.settings import TrainingSettings
from models_src.training import new_run
from models_src.visual_encoders import VisualEncoder
from tests.test_training import SMALL, assert_same, run, weights
from utils.errors import UserError


class SmallNetwork(nn.Module):
    """A CNN with what makes parts differ from a whole, or repetitions from the first time."""

    def __init__(self, cluster_num: int, norm: bool, dropout: float):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.second = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, cluster_num)

    def forward(self, images):
        features = torch.relu(self.second(torch.relu(self.norm(self.conv(images)))))
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))


def without_norm(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    """What builds networks without batch normalisation and chance."""
    return SmallNetwork(cluster_num, norm=False, dropout=0.0)


def with_norm(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    """What builds networks with both."""
    return SmallNetwork(cluster_num, norm=True, dropout=0.5)


@pytest.fixture(scope="module")
def pairs(demo_data):
    return load_training_pairs(demo_data, use_all_images=False)


@pytest.mark.parametrize("kind", ["lstm", "generative"])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(pairs, monkeypatch, kind):
    monkeypatch.setattr(visual_encoders, "_torchvision_network", without_norm)
    runs, results = [], []
    for parts in (1, 3):
        settings = TrainingSettings(**SMALL | {"text_encoder": kind, "accumulate": parts})
        runs.append(new_run(settings, pairs, "cpu"))
        of_run = runs[-1]
        captions = np.arange(10)
        for _ in range(3):
            results.append(
                joint_step(
                    of_run.visual,
                    of_run.optimizer,
                    of_run.text,
                    torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
                    torch.tensor([0, 1, 1, 2, 3, 4, 4, 5, 6, 6]),
                    torch.from_numpy(pairs.captions.padded(captions)),
                    0.0,
                    0.1,
                )
            )
    for whole, parts in zip(results[:3], results[3:], strict=True):
        assert torch.equal(whole.image_bits, parts.image_bits)
        assert torch.equal(whole.caption_bits, parts.caption_bits)
        torch.testing.assert_close(whole.visual_loss, parts.visual_loss, rtol=1e-4, atol=0)
        torch.testing.assert_close(whole.text_loss, parts.text_loss, rtol=1e-4, atol=0)
    assert results[0].image_bits.any()
    if kind == "generative":
        assert runs[0].text.counts.sum() > 0
        assert torch.equal(runs[0].text.counts, runs[1].text.counts)


@pytest.mark.parametrize("images", [7, 9, 3])
def test_gradients_and_statistics_are_those_of_parts_that_are_all_held(monkeypatch, images):
    """What is computed again uses the same chance, and moves no running statistics again."""
    monkeypatch.setattr(visual_encoders, "_torchvision_network", with_norm)
    torch.manual_seed(0)
    encoder = VisualEncoder("resnet18", 4, parts=3)
    twin = VisualEncoder("resnet18", 4)
    twin.load_state_dict(encoder.state_dict())
    pixels, weight = torch.rand(images, 3, 16, 16), torch.rand(images, 4)
    torch.manual_seed(5)
    logits = encoder(pixels)
    (logits * weight).sum().backward()
    torch.manual_seed(5)
    expected = torch.cat([twin.network(part) for part in pixels.tensor_split(min(3, images // 2))])
    (expected * weight).sum().backward()
    assert torch.equal(logits, expected)
    assert_same(dict(encoder.state_dict()), dict(twin.state_dict()))
    assert encoder.network.norm.num_batches_tracked == min(3, images // 2)
    for own, other in zip(encoder.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_a_compiled_network_goes_in_parts_as_well(monkeypatch):
    try:
        require_compiler("cpu")
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(
        visual_encoders,
        "_torchvision_network",
        lambda _name, cluster_num, _pretrained: SmallNetwork(cluster_num, norm=True, dropout=0.0),
    )
    plain, compiled = (VisualEncoder("resnet18", 4, parts=2) for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    compiled.network.compile()
    pixels = torch.rand(8, 3, 32, 32)
    for encoder in (plain, compiled):
        encoder(pixels).square().sum().backward()
    for own, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5)
    for own, other in zip(compiled.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own, other)


def held_bytes(encoder: VisualEncoder, pixels: torch.Tensor) -> int:
    """Return how much a forward pass keeps for the backward pass, weights and pixels left out."""
    own = {value.data_ptr() for value in [*encoder.state_dict().values(), pixels]}
    held = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = encoder(pixels)
    assert logits.requires_grad
    return sum(held.values())


def test_only_one_part_is_held():
    pixels = torch.rand(16, 3, 64, 64)
    whole, parts = (
        held_bytes(VisualEncoder("resnet18", 4, parts=parts), pixels) for parts in (1, 4)
    )
    assert parts < 0.35 * whole


def test_training_in_parts_repeats_itself_and_resumes(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(visual_encoders, "_torchvision_network", with_norm)
    settings = {"accumulate": 3, "epochs": 1}
    for name in ("a", "b"):
        run(pairs, tmp_path / name, settings=settings)
    run(pairs, tmp_path / "whole", settings=settings | {"accumulate": 1})
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    steps = weights(tmp_path / "whole")[0]["norm.num_batches_tracked"]
    assert weights(tmp_path / "a")[0]["norm.num_batches_tracked"] == 3 * steps
