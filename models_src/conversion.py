"""Models of the published program, rewritten as this program's, which name no code."""

import argparse
import logging
from typing import Any

from models_src.model_files import (
    HALVES,
    load_text_model,
    load_visual_model,
    model_exists,
    model_path,
    remove_model,
    require_same_origin,
    save_halves,
)
from models_src.published_models import is_published
from utils.errors import UserError

logger = logging.getLogger(__name__)


def convert_published_model(options: argparse.Namespace) -> None:
    """Rewrite the halves that a published model has; both are read before anything is written."""
    folder, name = options.models_dir, options.model_name
    new_name = options.new_name or f"{name}_converted"
    configs = {half: model_path(folder, half, name, "cfg") for half in HALVES}
    present = [half for half in HALVES if configs[half].is_file()]
    if not present:
        raise UserError(
            f"no model '{name}' in {folder}; unzip a published model there, or give its "
            "--model_name and --models_dir"
        )
    for half in present:
        if not is_published(configs[half]):
            raise UserError(
                f"{configs[half]} is of this program's format already: there is nothing to convert"
            )
    if new_name == name or (model_exists(folder, new_name) and not options.overwrite):
        raise UserError(
            f"there is a model '{new_name}' in {folder}; give another --new_name, or --overwrite "
            "to replace a model that is not the published one itself"
        )

    loaders: dict[str, Any] = {"text": load_text_model, "visual": load_visual_model}
    loaded = {half: loaders[half](folder, name) for half in present}
    origins = [origin for _, _, origin in loaded.values()]
    require_same_origin(origins[0], origins[-1], name)
    halves = {half: (settings, encoder) for half, (encoder, settings, _) in loaded.items()}
    save_halves(folder, new_name, origins[0], halves)
    for half in HALVES:
        if half not in halves:
            remove_model(folder, new_name, [half])  # an old one is not of the new model
            logger.info("there is no %s: only the other half is converted", configs[half])
            continue
        settings, encoder = halves[half]
        detail = settings.visual_encoder
        if half == "text":
            detail = f"{len(encoder.words)} words, {settings.text_encoder}"
        path = model_path(folder, half, new_name, "cfg")
        logger.info("%s half: %d clusters, %s: %s", half, settings.cluster_num, detail, path)
