"""The settings of a training run: one dataclass that the options, YAML files and model files share.

Nothing heavy is imported here, since ``main.py --help`` reads these fields.
"""

import contextlib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from models_src.text_encoders import TEXT_ENCODERS
from utils.errors import UserError
from utils.files import reading

VISUAL_ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "googlenet", "simclr")


def defaults_by_encoder(by_gradient: bool) -> dict[str, Any]:
    """Return the values of settings whose default is None.

    Count models have those of the published program. Those of lstm and gru were chosen on the demo
    world and on Flickr8k by all metrics, among them those of the norms and of the test images.
    """
    if by_gradient:
        thresholds = {"visual_threshold": 0.6, "text_threshold": 0.35}
        return thresholds | {"image_share": 0.06, "logit_adjustment": True, "cosine_decay": True}
    thresholds = {"visual_threshold": 0.5, "text_threshold": 0.03}
    return thresholds | {"image_share": 0.0, "logit_adjustment": False, "cosine_decay": False}


def _setting(
    default: Any,
    group: str,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float = -math.inf,
    maximum: float = math.inf,
) -> Any:
    """A dataclass field with what the parser and the checks need to know about it."""
    bounds = {"minimum": minimum, "maximum": maximum}
    return field(
        default=default, metadata={"group": group, "help": help, "choices": choices} | bounds
    )


# fmt: off
@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides what a training run computes.

    Each field is an option ``--<name>`` and a key of a ``--config`` file; its metadata holds the
    help text and the allowed values. The defaults are those of the published program, but for the
    text encoder and what it brings (``defaults_by_encoder``); those of the published model stand in
    ``configs/published.yaml``. Where the default is None, None may be given.
    """

    visual_encoder: str = _setting("resnet50", "visual encoder",
        "the CNN, with random weights unless --pretrained_visual is given; simclr is a ResNet-50 "
        "trunk and needs --pretrained_visual", choices=VISUAL_ENCODERS)
    pretrained_visual: str | None = _setting(None, "visual encoder",
        "local file with a state dict to start the CNN from (ImageNet weights from torchvision, or "
        "a SimCLR trunk); nothing is downloaded")
    freeze_visual: bool = _setting(False, "visual encoder",
        "train the CNN's last layer only; useful with --pretrained_visual")
    visual_threshold: float = _setting(None, "visual encoder",
        "an image activates a cluster when its raw logit (not a probability) is at least this. "
        "None is 0.5 for count models, as published; for lstm and gru, with --logit_adjustment, "
        "0.6: the image makes the cluster's odds 1.8 times what they are on average")
    visual_learning_rate: float = _setting(1e-4, "visual encoder",
        "Adam's learning rate for the CNN; 1e-4 for full COCO, up to 1e-3 for small data",
        minimum=0)
    cosine_decay: bool = _setting(None, "visual encoder",
        "let the CNN's learning rate fall along half a cosine after the random start. None is true "
        "for lstm and gru, false for count models")
    image_share: float = _setting(None, "visual encoder",
        "share of the images for which each cluster is on where they teach the text encoder, "
        "whatever --visual_threshold; 0 teaches the bits of --visual_threshold, as published. None "
        "is 0.06 for lstm and gru, 0 for count models", minimum=0, maximum=0.5)
    logit_adjustment: bool = _setting(None, "visual encoder",
        "let the CNN learn by how much an image changes the odds of each cluster, and not how "
        "often captions vote for it. None is true for lstm and gru, false for count models")
    fine_maps: bool = _setting(False, "visual encoder",
        "let the last stage of a ResNet keep its resolution: class activation maps of twice as "
        "many cells a side, for small images above all, in 1.3 to 1.5 times the time")
    text_encoder: str = _setting("lstm", "text encoder",
        "lstm and gru learn by gradient; generative (the published model) and discriminative count "
        "words and clusters", choices=tuple(TEXT_ENCODERS))
    text_threshold: float = _setting(None, "text encoder",
        "a caption activates a cluster when a word votes for it with at least this probability; "
        "lower it when captions activate too few clusters. None is 0.03 for count models and 0.35 "
        "for lstm and gru, whose votes that teach the CNN do not depend on it; a cluster that no "
        "word reaches at the end of their training, or on which images and captions hardly agree, "
        "is off for images, too", minimum=0, maximum=1)
    text_learning_rate: float = _setting(3e-3, "text encoder",
        "Adam's learning rate for lstm and gru", minimum=0)
    embedding_dim: int = _setting(128, "text encoder",
        "size of a word's embedding in lstm and gru", minimum=1)
    hidden_dim: int = _setting(128, "text encoder",
        "size of the state of lstm and gru", minimum=1)
    text_layers: int = _setting(1, "text encoder",
        "recurrent layers of lstm and gru", minimum=1)
    random_start_steps: int | None = _setting(None, "text encoder",
        "joint steps at the start in which each word votes for a fixed cluster of its own, so that "
        "clusters begin as words; then the text encoder takes over. 0 starts as published; a "
        "number above the run's length is the whole run, the control without mutual teaching. None "
        "is a third of the run for lstm and gru, and 0 for generative and discriminative",
        minimum=0)
    vote_revisions: int = _setting(8, "text encoder",
        "times that clusters of words are founded anew with lstm and gru, spread over the first "
        "four fifths of the run after the random start", minimum=1)
    voting_share: float = _setting(0.5, "text encoder",
        "share of all tokens that vote with lstm and gru: those of words that say most of images",
        minimum=0, maximum=1)
    vote_distance: float = _setting(0.5, "text encoder",
        "cosine distance between profiles up to which words of lstm and gru share a cluster; "
        "larger for fewer and broader clusters", minimum=0, maximum=2)
    cluster_num: int = _setting(100, "training",
        "number of clusters, the same for both encoders", minimum=1)
    epochs: int = _setting(2, "training",
        "passes over all training pairs", minimum=1)
    batch_size: int = _setting(50, "training",
        "pairs in one joint step; with --group_captions images, each with all its captions",
        minimum=2)
    group_captions: bool = _setting(False, "training",
        "put all captions of an image into one joint step, which encodes the image once for all of "
        "them: with COCO's five captions an image, a fifth of the CNN's work in an epoch")
    flip_images: bool = _setting(False, "training",
        "mirror half of the training images at random, anew in each epoch")
    smallest_crop: float = _setting(1.0, "training",
        "cut a square of at least this share of height and width from each training image, at "
        "random and anew in each epoch, against overfitting; 1 takes whole images",
        minimum=0.1, maximum=1)
    precision: str = _setting("fp32", "training",
        "in which the encoders compute while they learn, on a CPU the CNN alone; losses, "
        "probabilities, counts and weights stay as they are. bf16 halves the memory of a batch and "
        "is faster on GPUs and CPUs made for it; fp16, for older GPUs, scales the loss so that "
        "small gradients survive",
        choices=("fp32", "bf16", "fp16"))
    accumulate: int = _setting(1, "training",
        "parts, of two images at least, in which a batch goes through the CNN, so that the memory "
        "of one part is enough; all but the last are computed twice. The step is that of the whole "
        "batch, but that batch normalisation sees the parts", minimum=1)
    image_size: int = _setting(224, "training",
        "height and width in pixels that images are resized to; smaller is faster and coarser",
        minimum=32, maximum=1024)
    seed: int = _setting(0, "training",
        "seed of every random choice", minimum=0, maximum=2**32 - 1)

    # fmt: on
    def __post_init__(self) -> None:
        """Check every value, and fill in those that the text encoder decides."""
        for setting in fields(self):
            check_setting(setting, getattr(self, setting.name))
        if self.visual_encoder == "simclr" and self.pretrained_visual is None:
            raise UserError(
                "--visual_encoder simclr starts from trained weights; give its state dict with "
                "--pretrained_visual FILE"
            )
        if self.fine_maps and not self.visual_encoder.startswith(("resnet", "simclr")):
            raise UserError(
                f"--fine_maps is for ResNets, not for {self.visual_encoder}; leave it out"
            )
        by_gradient = TEXT_ENCODERS[self.text_encoder].by_gradient
        for name, value in defaults_by_encoder(by_gradient).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values by name, in the order of definition."""
        return asdict(self)


SETTINGS = {setting.name: setting for setting in fields(TrainingSettings)}


def setting_type(setting: Field[Any]) -> tuple[type, bool]:
    """Return a setting's plain type (str, int, float or bool) and whether None is allowed."""
    hint = typing.get_type_hints(TrainingSettings)[setting.name]
    plain = typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    return plain, setting.default is None


def settings_from_sources(config_file: Path | None, options: Mapping[str, Any]) -> TrainingSettings:
    """Merge settings: an option wins over the file, the file over the defaults."""
    values = read_config(config_file) if config_file is not None else {}
    return TrainingSettings(**(values | dict(options)))


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings."""
    return {
        name: file_value(SETTINGS[name], value, path)
        for name, value in read_by_setting(path).items()
    }


def read_by_setting(path: Path) -> dict[str, Any]:
    """Read a YAML mapping whose keys are settings; its values are not looked at."""
    with reading(path, "give lines 'setting: value', see models_src/configs/"):
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError("no settings")
    unknown = ", ".join(str(key) for key in values if key not in SETTINGS)
    if unknown:
        raise UserError(f"unknown settings in {path}: {unknown}; known are {', '.join(SETTINGS)}")
    return values


def file_value(setting: Field[Any], value: Any, path: Path) -> Any:
    """Return a value that a YAML file gives a setting, as the setting takes it."""
    if setting_type(setting)[0] is float and isinstance(value, str):  # YAML reads 1e-4 as text
        with contextlib.suppress(ValueError):  # the check below names the setting
            value = float(value)
    try:
        check_setting(setting, value)
    except UserError as error:
        raise UserError(f"{error} (in {path})") from None
    return value


def check_setting(setting: Field[Any], value: Any) -> None:
    """Raise a UserError unless ``value`` is allowed for ``setting``."""
    plain, optional = setting_type(setting)
    if value is None and optional:
        return
    accepted = (int, float) if plain is float else (plain,)
    is_right = isinstance(value, accepted) and (plain is bool or not isinstance(value, bool))
    if not is_right or (plain is float and not math.isfinite(value)):
        kind = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[plain]
        raise UserError(f"--{setting.name} must be {kind}, not {value!r}; correct it")
    choices, minimum, maximum = map(setting.metadata.get, ("choices", "minimum", "maximum"))
    if choices and value not in choices:
        raise UserError(f"--{setting.name} {value!r} is unknown; choose from {', '.join(choices)}")
    if plain in (int, float) and not minimum <= value <= maximum:
        bound = f"least {minimum}" if value < minimum else f"most {maximum}"
        raise UserError(f"--{setting.name} is {value}; give at {bound}")
