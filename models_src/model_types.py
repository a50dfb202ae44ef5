"""What ``--model_type`` can be: one table for the options, model files and evaluations of words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelType:
    """A kind of model that evaluations can ask about words."""

    clusters: bool = True  # whether it puts words in clusters
    concreteness: bool = False  # whether it tells how concrete a word is
    trained: bool = False  # whether its files stand in a folder of --models_dir of its name


JOINT, TEXT_ONLY, SUPERVISED = "multimodal_clustering", "text_only", "supervised_concreteness"

MODEL_TYPES = {
    JOINT: ModelType(concreteness=True),
    TEXT_ONLY: ModelType(concreteness=True, trained=True),
    "random": ModelType(),
    "w2v": ModelType(),
    "bert": ModelType(),
    "clip": ModelType(),
    SUPERVISED: ModelType(clusters=False, concreteness=True, trained=True),
}
