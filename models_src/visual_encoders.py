"""Visual encoders: torchvision CNNs whose last layer gives one logit per cluster.

Axes: B images, D channels of the last convolution, h x w its cells, C clusters.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models_src.settings import TrainingSettings
from utils.errors import UserError


class VisualEncoder(nn.Module):
    """A CNN that ends in global average pooling and one linear layer (D -> C).

    ``network`` has torchvision's parameter names; ``pretrained`` tells whether it began with
    trained weights.

    With ``parts`` above 1 a batch goes through the network in that many parts of at least two
    images, and only one part's activations are held at a time: the others are computed again in
    the backward pass. Batch normalisation sees the parts, each of which moves its running
    statistics once.
    """

    def __init__(
        self,
        name: str,
        cluster_num: int,
        freeze: bool = False,
        pretrained: bool = False,
        parts: int = 1,
        fine_maps: bool = False,
    ):
        super().__init__()
        self.parts = parts
        self.name = name
        self.cluster_num = cluster_num
        # of ``datasets_src.images``: the inputs that trained weights expect, or the published ones
        self.pixel_statistics = "imagenet" if pretrained else "clip"
        self.network: Any = _torchvision_network(name, cluster_num, pretrained)
        if fine_maps:
            first = self.network.layer4[0]
            # the strided convolution is the first of a basic block, the second of a bottleneck
            for convolution in (first.conv1, first.conv2, first.downsample[0]):
                convolution.stride = (1, 1)
        self.frozen = freeze
        if freeze:
            self.network.requires_grad_(False)
            self.head.requires_grad_(True)

    def train(self, mode: bool = True) -> "VisualEncoder":
        """Switch training on or off; a frozen trunk keeps its running statistics in any case."""
        return super().train(mode and not self.frozen)

    @property
    def head(self) -> nn.Linear:
        """The last layer; its weight (C, D) weighs channels in a class activation map."""
        head: nn.Linear = self.network.classifier if self.name == "vgg16" else self.network.fc
        return head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: (B, 3, H, W) normalised images -> (B, C)."""
        parts_wanted = self.parts if torch.is_grad_enabled() else 1
        *parts, last = images.tensor_split(max(1, min(parts_wanted, len(images) // 2)))
        outputs = [
            checkpoint(
                self.network,
                part,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _kept_statistics(self.network)),
            )
            for part in parts
        ]
        logits: Tensor = torch.cat([*outputs, self.network(last)]).float()
        return logits

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and the last convolution's activation (B, D, h, w)."""
        seen: list[Tensor] = []
        hook = self.network.avgpool.register_forward_pre_hook(
            lambda _module, inputs: seen.append(inputs[0])
        )
        try:
            logits = self(images)
        finally:
            hook.remove()
        return logits, seen[0]


@contextmanager
def _kept_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation from moving in training mode."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _torchvision_network(name: str, cluster_num: int, pretrained: bool) -> Any:
    """Return a network with random weights; ``pretrained`` if trained ones will replace them."""
    from torchvision import models

    # torchvision's ImageNet weights of GoogLeNet, and of no other network here, are for pixels
    # in -1..1; a network that torchvision builds with them rescales its input first. Published
    # models that began with trained weights are taken to have been built in that way
    googlenet = {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    network = models.get_model(
        "resnet50" if name == "simclr" else name,
        weights=None,
        **(googlenet if name == "googlenet" else {}),
    )
    if name == "vgg16":
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Linear(512, cluster_num)
    else:
        network.fc = nn.Linear(network.fc.in_features, cluster_num)
    return network


def build_visual_encoder(
    settings: TrainingSettings, device: str = "cpu", *, with_pretrained: bool = True
) -> VisualEncoder:
    """Return the encoder that ``settings`` ask for, in training mode.

    Random weights come from torch's global generator, which the caller seeds. The file of
    ``pretrained_visual`` is read unless ``with_pretrained`` says that weights come from elsewhere.
    """
    encoder = VisualEncoder(
        settings.visual_encoder,
        settings.cluster_num,
        settings.freeze_visual,
        settings.pretrained_visual is not None,
        settings.accumulate,
        settings.fine_maps,
    )
    if settings.pretrained_visual is not None and with_pretrained:
        load_trunk(encoder, Path(settings.pretrained_visual))
    # channels come last, the faster layout of convolutions
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def load_trunk(encoder: VisualEncoder, path: Path) -> None:
    """Load all but the last layer from a state dict of ImageNet weights or of SimCLR.

    The trunk may stand behind a prefix ("backbone.", "module.encoder." ...) and inside a
    "state_dict" entry; other layers (a projection head, the 1000-class layer) are left out.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    except Exception as error:  # of many kinds; torch's own advice is to read the file unsafely
        raise UserError(
            f"{path} cannot be read as a dict of tensors ({type(error).__name__}); give "
            "--pretrained_visual a file of weights"
        ) from None
    own = encoder.network.state_dict()
    trunk = [name for name in own if not name.startswith(("fc.", "classifier."))]
    prefixes = [name[: -len(trunk[0])] for name in state if name.endswith(trunk[0])]
    prefix = min(prefixes, key=len, default="")
    loaded = {name: state[prefix + name] for name in trunk if prefix + name in state}
    unfit = [
        name
        for name in trunk
        # batch counters are missing from older files and have no effect
        if not name.endswith("num_batches_tracked")
        and (name not in loaded or loaded[name].shape != own[name].shape)
    ]
    if unfit:
        raise UserError(
            f"{path} does not fit {encoder.name}: {len(unfit)} of {len(trunk)} trunk entries are "
            f"missing or of another shape, the first {unfit[0]}; give weights of {encoder.name}"
        )
    encoder.network.load_state_dict(own | loaded)
