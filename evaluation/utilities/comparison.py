"""Models side by side, from the results that their evaluations wrote."""

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.files import write_text

if TYPE_CHECKING:
    from evaluation.comparison import ModelResults

BOOTSTRAP_DRAWS = 500

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
    """Return significance by row and setting; nothing, with the reason logged, where it lacks."""
    from evaluation.comparison import agrees, by_setting, read_word_answers, significance

    groups = by_setting(models)
    if len(groups) < 2:
        return {}
    paths = {
        model.name: options.results_dir / f"word_clusters_{model.name}.csv" for model in models
    }
    answers = {name: read_word_answers(path) for name, path in paths.items()}
    lacking = [name for name, found in answers.items() if found is None]
    if lacking:
        logger.info(
            "no significance: --utility word_clusters has not been run for %s", ", ".join(lacking)
        )
        return {}
    if len({found.words for found in answers.values()}) > 1:
        logger.info("no significance: the tables of word_clusters are about different words")
        return {}
    other = [model.name for model in models if not agrees(model, answers[model.name])]
    if other:
        logger.info(
            "no significance: the tables of word_clusters score otherwise than the results of %s "
            "(another training of that name, or a --word_list); run word_clusters again",
            ", ".join(other),
        )
        return {}
    return significance(
        {
            setting: [answers[model.name] for model in members]
            for setting, members in groups.items()
        },
        draws=BOOTSTRAP_DRAWS,
        seed=options.seed,
    )
