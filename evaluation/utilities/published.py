"""Models of the published program, rewritten as this program's."""

import argparse
import logging
from typing import Any

from utils.errors import UserError

logger = logging.getLogger(__name__)


def convert_published_model(options: argparse.Namespace) -> None:
    """Rewrite a published model in this program's format, which names no code and loads faster.

    Both halves are read and checked before anything is written; of a model with one half, that one
    is rewritten.

    Raises:
        UserError: there is no such model, it is of this program's format already, its files are
            malformed or do not belong together, the new name is the old one, or another model
            stands where the new one goes.
    """
    from models_src.model_files import (
        HALVES,
        load_text_model,
        load_visual_model,
        model_exists,
        model_path,
        remove_half,
        require_same_origin,
        save_halves,
    )
    from models_src.published_models import is_published

    folder, name = options.models_dir, options.model_name
    new_name = options.new_name or f"{name}_converted"
    configs = {half: model_path(folder, half, name, "cfg") for half in HALVES}
    present = {half: path for half, path in configs.items() if path.is_file()}
    if not present:
        raise UserError(
            f"no model '{name}' in {folder}; unzip a published model there, or give its "
            "--model_name and --models_dir"
        )
    for half, path in present.items():
        if not is_published(path):
            raise UserError(
                f"{path} is of this program's format already: there is nothing to convert in the "
                f"{half} half of '{name}'"
            )
    if new_name == name:
        # its four files cannot be replaced at once: a crash in between would leave no model
        raise UserError(
            f"--new_name {new_name} is the published model's own name, and that model is kept; "
            "give another --new_name"
        )
    if model_exists(folder, new_name) and not options.overwrite:
        raise UserError(
            f"there is a model '{new_name}' in {folder}; give another --new_name, or --overwrite "
            "to replace it"
        )

    loaders: dict[str, Any] = {"visual": load_visual_model, "text": load_text_model}
    loaded = {half: load(folder, name) for half, load in loaders.items() if half in present}
    origins = {half: origin for half, (_, _, origin) in loaded.items()}
    if len(origins) == len(HALVES):
        require_same_origin(origins["text"], origins["visual"], name)
    halves = {half: (settings, encoder) for half, (encoder, settings, _) in loaded.items()}
    save_halves(folder, new_name, next(iter(origins.values())), halves)
    for half in HALVES:
        if half in present:
            settings, encoder = halves[half]
            detail = (
                f"{len(encoder.words)} words, {settings.text_encoder}"
                if half == "text"
                else settings.visual_encoder
            )
            logger.info(
                "%s half: %d clusters, %s: %s",
                half,
                settings.cluster_num,
                detail,
                model_path(folder, half, new_name, "cfg"),
            )
        else:
            remove_half(folder, half, new_name)  # an old one is not of the new model
            logger.info("there is no %s: only the other half is converted", configs[half])
