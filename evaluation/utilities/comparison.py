"""Models side by side, from the results that their evaluations wrote."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from evaluation.comparison import ModelResults

DRAWS = 500

logger = logging.getLogger(__name__)


def compare_models(options: argparse.Namespace) -> None:
    """Write one table of several models as text, CSV, Markdown and LaTeX.

    Raises:
        UserError: a model has no results, or they were not evaluated alike.
    """
    from evaluation.comparison import (
        as_csv,
        as_latex,
        as_markdown,
        as_text,
        by_setting,
        comparison_table,
        matching_models,
        read_results,
        require_comparable,
        table_cells,
    )

    folder = options.results_dir
    models = [read_results(folder, name) for name in matching_models(folder, options.model_names)]
    require_comparable(models)
    table = comparison_table(models)
    if not table:
        raise UserError(
            f"the results of {', '.join(model.name for model in models)} in {folder} hold none of "
            "the compared metrics; run --utility text_evaluation with the norms in --datasets_dir"
        )
    for setting, members in by_setting(models).items():
        logger.info("%s: %s", setting, ", ".join(member.name for member in members))
    p_values = _p_values(options, models)
    lines = table_cells(table, p_values, " ± ")
    logger.info("%s", as_text(lines))
    for ending, content in (
        ("txt", as_text(lines) + "\n"),
        ("csv", as_csv(table, p_values)),
        ("md", as_markdown(lines)),
        ("tex", as_latex(lines)),
    ):
        path = folder / f"compare_models.{ending}"
        write_text(path, content)
        logger.info("%s", path)


def _p_values(
    options: argparse.Namespace, models: "Sequence[ModelResults]"
) -> dict[str, dict[str, float | None]]:
    """Return significance by row and setting, over words and over images.

    Where a kind of it lacks, the reason is logged.
    """
    from evaluation.comparison import (
        BY_IMAGE,
        by_setting,
        image_scores,
        pair_scores,
        read_image_answers,
        read_word_answers,
        word_scores,
    )

    if len(by_setting(models)) < 2:
        return {}
    words = {
        model.name: read_word_answers(options.results_dir / f"word_clusters_{model.name}.csv")
        for model in models
    }
    found = _significance(options, models, words, word_scores, "words", "word_clusters")
    with_images = _to_compare(models, lambda model: bool(set(BY_IMAGE) & set(model.settings)))
    answers = {model.name: read_image_answers(options.results_dir, model) for model in with_images}
    for place, scores, what in ((0, image_scores, "images"), (1, pair_scores, "pairs of images")):
        of_kind = {name: both and both[place] for name, both in answers.items()}
        found |= _significance(options, with_images, of_kind, scores, what, "visual_evaluation")
    return found


def _to_compare(
    models: "Sequence[ModelResults]", has_answers: "Callable[[ModelResults], bool]"
) -> "list[ModelResults]":
    """Return the models of settings whose seeds all have answers; none without two to compare.

    Settings are compared with the first one, so that it must be among them.
    """
    from evaluation.comparison import by_setting

    kept = [
        model
        for members in by_setting(models).values()
        if all(has_answers(member) for member in members)
        for model in members
    ]
    comparable = bool(kept) and kept[0] is models[0] and len(by_setting(kept)) > 1
    return kept if comparable else []


def _significance(
    options: argparse.Namespace,
    models: "Sequence[ModelResults]",
    answers: "Mapping[str, Any]",
    scores: "Callable[[Any, np.ndarray], Mapping[str, float | None]]",
    what: str,
    utility: str,
) -> dict[str, dict[str, float | None]]:
    """Return significance over one kind of units; nothing, with the reason logged, without them.

    Args:
        options: With the seed of the draws.
        models: Of at least two settings.
        answers: Of each model by name; None where there are none.
        scores: See ``significance``.
        what: The units' name.
        utility: What writes the answers.
    """
    import numpy as np

    from evaluation.comparison import agrees, by_setting, significance

    lacking = [name for name, found in answers.items() if found is None]
    if lacking:
        logger.info(
            "no significance over %s for %s: no answers by %s are stored; --utility %s stores "
            "them%s",
            what,
            ", ".join(lacking),
            what,
            utility,
            ", of a baseline of clusters with its --model_type" if what == "words" else "",
        )
    models = _to_compare(models, lambda model: answers[model.name] is not None)
    if not models:
        return {}
    answers = {model.name: answers[model.name] for model in models}
    if len({found.units for found in answers.values()}) > 1:
        logger.info("no significance over %s: they are not the same for all models", what)
        return {}
    whole = {name: scores(one, np.arange(len(one.units))) for name, one in answers.items()}
    other = [model.name for model in models if not agrees(model, whole[model.name])]
    if other:
        logger.info(
            "no significance over %s: what --utility %s stored of them scores otherwise than the "
            "results of %s (another training of that name, or a --word_list); run it again",
            what,
            utility,
            ", ".join(other),
        )
        return {}
    found = significance(
        {
            setting: [answers[model.name] for model in members]
            for setting, members in by_setting(models).items()
        },
        scores,
        draws=DRAWS,
        seed=options.seed,
    )
    # a metric that no model has needs no row
    return {row: ps for row, ps in found.items() if any(p is not None for p in ps.values())}
