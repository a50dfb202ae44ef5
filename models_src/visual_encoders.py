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

from models_src.groups import group_log_ratios
from models_src.settings import TrainingSettings
from utils.errors import UserError


class VisualEncoder(nn.Module):
    """A CNN that ends in global average pooling and one linear layer (D -> C).

    Where clusters stand in groups (``group_size`` above 1), a logit is the logarithm of how many
    times an even share of its group the cluster has (see ``groups.py``).

    The network keeps torchvision's parameter names, so its state dict is a torchvision one. That
    does not tell whether training began with ImageNet weights, which ``pretrained`` does.

    With ``parts`` above 1 a batch goes through the network in that many parts of at least two
    images, and only one part's activations are held at a time: the others are computed again when
    their gradient is. The logits are those of the whole batch, but that batch normalisation sees
    the parts, each of which moves its running statistics once.
    """

    def __init__(
        self,
        name: str,
        cluster_num: int,
        freeze: bool = False,
        pretrained: bool = False,
        group_size: int = 1,
        parts: int = 1,
    ):
        super().__init__()
        self.group_size = group_size
        self.parts = parts
        self.name = name
        self.cluster_num = cluster_num
        # a name in torchvision's networks is a layer or a tensor: which, mypy cannot know
        self.network: Any = _torchvision_network(name, cluster_num, pretrained)
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

    def placed_on(self, device: str) -> "VisualEncoder":
        """Move the encoder to a device, and return it."""
        # weights whose channels come last make every convolution use the faster layout (torch's
        # type hints lack the argument)
        self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

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
        logits = torch.cat([*outputs, self.network(last)]).float()
        return group_log_ratios(logits, self.group_size)

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
    """Let batch normalisation work as before, but leave its running statistics as they are."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def network_shapes(name: str, cluster_num: int) -> dict[str, torch.Size]:
    """Return the names and shapes of a network's state dict; no memory is taken for its tensors."""
    with torch.device("meta"):
        state = _torchvision_network(name, cluster_num, pretrained=False).state_dict()
    return {entry: value.shape for entry, value in state.items()}


def _torchvision_network(name: str, cluster_num: int, pretrained: bool) -> Any:
    """Return torchvision's network with random weights and ``cluster_num`` outputs.

    ``pretrained`` says whether ImageNet weights take their place.
    """
    from torchvision import models

    if name == "vgg16":
        network = models.vgg16(weights=None)
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Linear(512, cluster_num)
    elif name == "googlenet":
        # torchvision's ImageNet weights of GoogLeNet, and of no other network here, are for pixels
        # in -1..1; a network that torchvision builds with them rescales its input first. Published
        # models that began with trained weights are taken to have been built in that way
        network = models.googlenet(
            weights=None, aux_logits=False, init_weights=True, transform_input=pretrained
        )
        network.fc = nn.Linear(network.fc.in_features, cluster_num)
    else:
        network = models.get_model("resnet50" if name == "simclr" else name, weights=None)
        network.fc = nn.Linear(network.fc.in_features, cluster_num)
    return network


def build_visual_encoder(
    settings: TrainingSettings, device: str = "cpu", *, with_pretrained: bool = True
) -> VisualEncoder:
    """Return the encoder that ``settings`` ask for, before training.

    Random weights come from torch's global generator, which the caller seeds. The file of
    ``pretrained_visual`` is read unless ``with_pretrained`` says that weights come from elsewhere.

    Raises:
        UserError: the file of ``pretrained_visual`` is missing or does not fit the encoder.
    """
    encoder = VisualEncoder(
        settings.visual_encoder,
        settings.cluster_num,
        settings.freeze_visual,
        settings.pretrained_visual is not None,
        settings.cluster_group_size,
        settings.accumulate,
    )
    if settings.pretrained_visual is not None and with_pretrained:
        load_trunk(encoder, Path(settings.pretrained_visual))
    return encoder.placed_on(device)


def load_trunk(encoder: VisualEncoder, path: Path) -> None:
    """Load all but the last layer from a local state dict.

    Accepted are torchvision's own files and those that hold the trunk behind a prefix
    ("backbone.", "module.encoder." ...) or inside a "state_dict" entry, as SimCLR
    implementations save it; entries of other layers (a projection head, the 1000-class layer) are
    left out. Weights of GoogLeNet are taken to be torchvision's (see ``_torchvision_network``).

    Raises:
        UserError: the file is missing, no state dict, or lacks a parameter of the trunk.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"no file {path} for --pretrained_visual; download the weights and give their path"
        ) from None
    except Exception as error:  # torch raises many kinds for files that are no checkpoint
        raise UserError(
            f"{path} is no state dict that torch reads safely ({type(error).__name__}); give "
            "--pretrained_visual a file of plain tensors"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state dict; give --pretrained_visual another file")
    own = encoder.network.state_dict()
    head = {id(parameter) for parameter in encoder.head.parameters()}
    head_names = {name for name, p in encoder.network.named_parameters() if id(p) in head}
    trunk_names = [name for name in own if name not in head_names]
    first = trunk_names[0]
    prefixes = [name[: -len(first)] for name in state if str(name).endswith(first)]
    prefix = min(prefixes, key=len, default="")
    loaded = {name: state.get(prefix + name) for name in trunk_names}
    unfit = [
        name
        for name, value in loaded.items()
        # batch counters are missing from older files and have no effect
        if not name.endswith("num_batches_tracked")
        and (not isinstance(value, Tensor) or value.shape != own[name].shape)
    ]
    if unfit:
        raise UserError(
            f"{path} does not fit {encoder.name}: {len(unfit)} of {len(trunk_names)} trunk entries "
            f"are missing or of another shape, the first {unfit[0]}; give weights of {encoder.name}"
        )
    encoder.network.load_state_dict(
        own | {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    )
