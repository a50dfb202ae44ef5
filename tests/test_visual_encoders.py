"""Visual encoders: every network, its class activation maps, and starting weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import normalize

from datasets_src.images import ImageFiles
from evaluation.image_evaluation import VisualModel, pixel_batches
from evaluation.localization import class_activation_maps
from models_src.settings import VISUAL_ENCODERS, TrainingSettings
from models_src.visual_encoders import VisualEncoder, build_visual_encoder, load_trunk
from tests.test_coco import refusal_of

C = 5


@pytest.mark.parametrize("name", VISUAL_ENCODERS)
def test_mean_of_a_class_activation_map_and_bias_is_the_logit(name):
    """Which holds just where the features are those that the last layer sees pooled."""
    torch.manual_seed(0)
    encoder = VisualEncoder(name, C).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits, features = encoder.logits_and_features(images)
        assert torch.equal(logits, encoder(images))
        image = torch.arange(2).repeat_interleave(C)
        cluster = torch.arange(C).repeat(2)
        maps = class_activation_maps(features, encoder.head.weight, image, cluster)
        pooled = maps.mean(dim=(1, 2)).view(2, C) + encoder.head.bias
    torch.testing.assert_close(pooled, logits, rtol=1e-3, atol=1e-4)


def test_seed_decides_the_weights():
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        settings = TrainingSettings(visual_encoder="resnet18", cluster_num=C)
        built.append(build_visual_encoder(settings).state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    assert not torch.equal(built[0]["network.conv1.weight"], built[2]["network.conv1.weight"])


@pytest.mark.parametrize(
    ("prefix", "wrap"), [("", False), ("backbone.", False), ("module.encoder.", True)]
)
def test_trunk_loads_from_plain_and_prefixed_state_dicts(tmp_path, prefix, wrap):
    source = VisualEncoder("resnet18", 1000).network.state_dict()
    state = {prefix + name: value for name, value in source.items()}
    state["projector.0.weight"] = torch.zeros(3)  # a SimCLR head, left out
    torch.save({"state_dict": state, "epoch": 3} if wrap else state, tmp_path / "weights.pt")
    encoder = VisualEncoder("resnet18", C)
    own_head = encoder.head.weight.clone()
    load_trunk(encoder, tmp_path / "weights.pt")
    for name, value in encoder.network.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, source[name]), name
    assert torch.equal(encoder.head.weight, own_head)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_googlenet_rescales_its_input_for_trained_weights(tmp_path, pretrained):
    """Those of torchvision are for -1..1: its own network does so when built with them."""
    path = None
    if pretrained:
        path = str(tmp_path / "weights.pt")
        state = VisualEncoder("googlenet", C).network.state_dict()
        torch.save({name: torch.ones_like(value) for name, value in state.items()}, path)
    settings = TrainingSettings(
        visual_encoder="googlenet", cluster_num=C, pretrained_visual=path, freeze_visual=pretrained
    )
    encoder = build_visual_encoder(settings).eval()
    seen = []
    encoder.network.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)  # black and white
    images = normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # as for ImageNet
    with torch.inference_mode():
        encoder(images)
    torch.testing.assert_close(seen[0], 2 * pixels - 1 if pretrained else images)


@pytest.mark.parametrize(
    ("pretrained", "white"), [(False, (1 - 0.48145466) / 0.26862954), (True, (1 - 0.485) / 0.229)]
)
def test_pixels_are_scaled_as_the_starting_weights_expect(tmp_path, pretrained, white):
    Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    encoder = VisualEncoder("resnet18", C, pretrained=pretrained)
    model = VisualModel(encoder, 0.0, 32, 4, 0, "cpu")
    (pixels,) = pixel_batches(model, ImageFiles((tmp_path / "white.png",)), np.arange(1))
    assert pixels[0, 0].mean().item() == pytest.approx(white, rel=1e-5)


def test_bad_weight_files_are_refused_by_name(tmp_path):
    encoder = VisualEncoder("resnet34", C)
    torch.save(VisualEncoder("resnet18", C).network.state_dict(), tmp_path / "other.pt")
    message = refusal_of(load_trunk, encoder, tmp_path / "other.pt")
    assert "other.pt does not fit resnet34" in message
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    for name in ("absent", "text", "list"):
        message = refusal_of(load_trunk, encoder, tmp_path / f"{name}.pt")
        assert f"{name}.pt cannot be read" in message


def test_frozen_trunk_neither_learns_nor_drifts():
    torch.manual_seed(0)
    encoder = VisualEncoder("resnet18", C, freeze=True)
    encoder.train()
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.1)
    encoder(torch.randn(4, 3, 32, 32)).pow(2).sum().backward()
    optimizer.step()
    changed = {n for n, v in encoder.network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_fine_maps_have_twice_the_cells_and_the_same_weights(name):
    coarse, fine = VisualEncoder(name, C).eval(), VisualEncoder(name, C, fine_maps=True).eval()
    fine.network.load_state_dict(coarse.network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert coarse.logits_and_features(images)[1].shape[2:] == (2, 2)
        assert fine.logits_and_features(images)[1].shape[2:] == (4, 4)


def test_fine_maps_are_for_resnets():
    message = refusal_of(TrainingSettings, visual_encoder="vgg16", fine_maps=True)
    assert "fine_maps is for ResNets" in message
