"""Several models' stored results beside each other, as a paper's table.

Models whose names differ only in a number at the end or before ``_best`` (``lstm_0`` and
``lstm_1``, ``lstm_0_best`` and ``lstm_1_best``) are the seeds of one setting.

Axes: U units (words, images or pairs of images), D draws of units, S settings, P resampled metrics.
"""

import argparse
import fnmatch
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.categorization import categorization_scores
from evaluation.classification import summed_scores
from evaluation.concreteness import concreteness_scores
from evaluation.metrics_table import METRICS, chance_level
from evaluation.reports import flatten
from evaluation.results import data_identity, identity_differences, results_file
from evaluation.sentence_image_matching import matching_scores
from utils.errors import UserError
from utils.files import read_json, reading, write_text
from utils.progress import with_bar

# utilities whose results hold metrics of a model; where two hold the same, the first one counts
SOURCES = (
    "text_evaluation",
    "visual_evaluation",
    "train_text_only_baseline",
    "train_concreteness_supervised_model",
    "categorization_evaluation",
    "association_evaluation",
    "concreteness_evaluation",
    "clip_classification_evaluation",
)
BY_IMAGE = ("visual_evaluation", "clip_classification_evaluation")  # with results by image
OF_ONE_RUN = {"seed", "evaluation_seed", "origin"}  # settings in which seeds may differ
RESAMPLED = {metric.path: metric.label for metric in METRICS if metric.resampled_over}
SAME_SCORE = 1e-5  # tables of words are rounded
DRAWS = 500
CONSERVATIVE = (
    "p-values are two-sided, not corrected for the number of rows, and conservative: between "
    "models that do not differ, p <= 0.2 comes out in 7 to 13 % of cases, not in 20 %."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelResults:
    """What the results files of one model hold."""

    name: str
    metrics: dict[str, float | None]  # flattened, see ``flatten``
    settings: dict[str, dict[str, Any]]  # by utility
    identities: dict[str, dict[str, Any]]  # of the data, by utility

    @property
    def setting(self) -> str:
        """The name without its seed."""
        return re.sub(r"_\d+(_best)?$", r"\1", self.name)


def compare_models(options: argparse.Namespace) -> None:
    """Write one table of several models as text, CSV, Markdown and LaTeX."""
    folder = options.results_dir
    models = [read_results(folder, name) for name in matching_models(folder, options.model_names)]
    require_comparable(models)
    table = comparison_table(models)
    if table.empty:
        raise UserError(
            f"the results of {', '.join(model.name for model in models)} in {folder} hold none of "
            "the compared metrics; run --utility text_evaluation with the norms in --datasets_dir"
        )
    p_values = all_p_values(folder, models, options.seed)
    places = zip(table["metric"], table["setting"], strict=True)
    table["p_value"] = [p_values.get(place) for place in places]
    seeds = "; ".join(
        f"{setting} ({', '.join(member.name for member in members)})"
        for setting, members in by_setting(models).items()
    )
    notes = [f"Mean ± sample standard deviation over seeds: {seeds}", *threshold_notes(models)]
    if p_values:
        notes.append(CONSERVATIVE)
    cells = table_cells(table)
    text = "\n".join([cells.to_string(), "", *notes])
    logger.info("%s", text)
    for ending, content in (
        ("txt", text + "\n"),
        ("csv", table.to_csv(index=False)),
        ("md", as_markdown(cells) + "".join(f"\n{note}\n" for note in notes)),
        ("tex", "".join(f"% {note}\n" for note in notes) + as_latex(cells)),
    ):
        write_text(folder / f"compare_models.{ending}", content)
        logger.info("%s", folder / f"compare_models.{ending}")


# ---- stored results


def matching_models(results_dir: Path, patterns: Sequence[str]) -> list[str]:
    """Return the names of the models with results that match, each once, pattern by pattern.

    Patterns are as in a shell; the matches of one are sorted, numbers by size.
    """
    present = {
        path.stem.removeprefix(f"{utility}_")
        for utility in SOURCES
        for path in results_dir.glob(f"{utility}_*.json")
    }
    by_number = sorted(
        present, key=lambda name: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
    )
    chosen: list[str] = []
    for pattern in patterns:
        found = fnmatch.filter(by_number, pattern)
        if not found:
            raise UserError(
                f"no stored results match '{pattern}' in {results_dir} (there are "
                f"{', '.join(by_number) or 'none'}); run --utility text_evaluation and "
                "visual_evaluation, or check --results_dir"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def read_results(results_dir: Path, name: str) -> ModelResults:
    """Read all results files of a model, which must be of one training."""
    metrics: dict[str, float | None] = {}
    settings, identities, trainings = {}, {}, {}
    for utility in SOURCES:
        path = results_file(results_dir, utility, name)
        advice = f"remove it and run --utility {utility} again"
        if not path.is_file():
            continue
        content = read_json(path, advice)
        with reading(path, advice):
            found = flatten(content["metrics"])
            metrics = {k: None if v is None else float(v) for k, v in found.items()} | metrics
            settings[utility] = dict(content["settings"])
            identities[utility] = data_identity(content)
            origin = settings[utility].get("origin")  # a baseline has none
            trainings[utility] = origin and (origin["run"], origin["step"])
    if len(set(trainings.values())) > 1:
        raise UserError(
            f"{' and '.join(trainings)} of '{name}' are of different trainings, or one is of a "
            "baseline; run them again, a baseline with a --model_name of its own"
        )
    return ModelResults(name, metrics, settings, identities)


def by_setting(models: Sequence[ModelResults]) -> dict[str, list[ModelResults]]:
    """Group models by setting, in order of first appearance."""
    return {
        setting: [model for model in models if model.setting == setting]
        for setting in dict.fromkeys(model.setting for model in models)
    }


def require_comparable(models: Sequence[ModelResults]) -> None:
    """See that all models were evaluated on the same data, and a setting's seeds alike."""
    seen: dict[str, Any] = {}
    for model in models:
        for utility, identity in model.identities.items():
            differences = identity_differences(seen, identity)
            if differences:
                raise UserError(
                    f"{utility} of '{model.name}' was on other data than the models before it "
                    f"({', '.join(differences)}); evaluate all alike, then compare"
                )
            seen |= identity
    for first_seed, *others in by_setting(models).values():
        for model, utility in product(others, first_seed.settings):
            one, two = first_seed.settings[utility], model.settings.get(utility, {})
            for key in (one.keys() | two.keys()) - OF_ONE_RUN if two else ():
                if one.get(key) != two.get(key):
                    raise UserError(
                        f"'{first_seed.name}' and '{model.name}' would be averaged as seeds of one "
                        f"setting, but differ ({key} {one.get(key)!r} and {two.get(key)!r}); "
                        "evaluate them alike, or train under names that differ in more than the "
                        "number"
                    )


def threshold_notes(models: Sequence[ModelResults]) -> list[str]:
    """Say where models were evaluated at different thresholds."""
    notes = []
    for utility, key in product(SOURCES, ("text_threshold", "visual_threshold")):
        used = {
            model.setting: f"{model.settings[utility][key]:.4g}"
            for model in models
            if key in model.settings.get(utility, {})
        }
        if len(set(used.values())) > 1:
            found = "; ".join(f"{value} for {setting}" for setting, value in used.items())
            notes.append(f"{utility} was at different values of {key}: {found}.")
    return notes


# ---- the table


def comparison_table(models: Sequence[ModelResults]) -> pd.DataFrame:
    """Return a row for each metric, or its chance level, and setting; none where none has it."""
    rows = []
    for metric, suffix, model in product(METRICS, ("", " (random)"), models):
        value = model.metrics.get(metric.path)
        if suffix and value is not None:
            value = chance_level(model.metrics, metric.path)
        rows.append((metric.label + suffix, model.setting, value))
    figures = pd.DataFrame(rows, columns=["metric", "setting", "value"])
    return mean_over_seeds(figures[figures.groupby("metric")["value"].transform("count") > 0])


def mean_over_seeds(figures: pd.DataFrame) -> pd.DataFrame:
    """Return mean, deviation and number of the ``value`` of each ``metric`` and ``setting``.

    A mean is undefined unless all seeds of the setting have the figure: a mean over those that
    happen to be defined would be another quantity.
    """
    groups = figures.astype({"value": float}).groupby(["metric", "setting"], sort=False)["value"]
    mean, deviation = groups.mean(skipna=False), groups.std(skipna=False)
    table = pd.DataFrame({"mean": mean, "standard_deviation": deviation, "seeds": groups.size()})
    return table.reset_index()


def table_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text with a column for each setting; p-values follow their metric."""
    lines = []
    for metric, rows in table.set_index("setting").groupby("metric", sort=False):
        spread = rows["standard_deviation"].map(" ± {:.3f}".format).replace(" ± nan", "")
        figures = rows["mean"].map("{:.3f}".format) + spread
        lines.append(figures.replace("nan", "-").rename(metric))
        if "p_value" in rows and rows["p_value"].notna().any():
            p_values = rows["p_value"].map("{:.3f}".format).replace("nan", "-")
            lines.append(p_values.rename(f"  p against {rows.index[0]}"))
    return pd.DataFrame(lines).rename_axis(columns=None)


def as_markdown(cells: pd.DataFrame) -> str:
    """Return cells as a Markdown table."""
    align = ("left", *("right" for _ in cells.columns))
    return f"{cells.to_markdown(colalign=align, disable_numparse=True)}\n"


def as_latex(cells: pd.DataFrame) -> str:
    """Return cells as a LaTeX tabular in the style of booktabs."""
    latex: str = cells.to_latex(escape=True, column_format="l" + "r" * len(cells.columns))
    latex = latex.replace(" ± ", r" $\pm$ ").replace(">", "$>$")
    latex = re.sub(r"(?<=& )-(?=\d)", "$-$", latex)  # a minus; names keep their hyphens
    latex = latex.replace("\n  p against", "\n\\quad p against")
    return "% needs \\usepackage{booktabs}\n" + latex


# ---- significance


class Answers:
    """What a model answered about U units: words, images or pairs of images."""

    def __init__(self, units: Sequence[Any], score: Callable[[np.ndarray], dict[str, Any]]):
        self.units = list(units)
        self.score = score  # positions of drawn units -> nested metrics
        self.whole = self.scores(np.arange(len(units)))  # (P,)

    def scores(self, drawn: np.ndarray) -> np.ndarray:
        """Return the ``RESAMPLED`` metrics of drawn units, (P,) with NaN for what is undefined."""
        found = flatten(self.score(drawn))
        return np.array([found.get(path) for path in RESAMPLED], dtype=float)


def read_word_answers(path: Path) -> dict[str, Answers]:
    """Read a table of ``word_clusters``, of its words with category or rating, where there is one.

    Returns answers by kind of units, here ``words`` alone.
    """
    if not path.is_file():
        return {}
    numbers = ("count", "cluster", "concreteness", "concreteness_rating")
    with reading(path, "write it again with --utility word_clusters"):
        table = pd.read_csv(
            path,
            keep_default_na=False,  # "null" is a word
            na_values="",
            dtype=dict.fromkeys(numbers, float) | {"word": str, "category": str},
        ).dropna(subset=["category", "concreteness_rating"], how="all")
        count, cluster, concreteness, rating = (table[column].to_numpy() for column in numbers)
        category = table["category"].factorize()[0]  # -1 for none
        placed = (category >= 0) & ~np.isnan(cluster)
        rated = ~np.isnan(concreteness + rating)

        def score(drawn: np.ndarray) -> dict[str, Any]:
            known, scored = drawn[placed[drawn]], drawn[rated[drawn]]
            words = categorization_scores(category[known], cluster[known])
            scores = concreteness_scores(concreteness[scored], rating[scored], count[scored], [20])
            return {"categorization": {"known_words": words}, "concreteness": scores}

        return {"words": Answers(table["word"], score)}


def read_image_answers(results_dir: Path, model: ModelResults) -> dict[str, Answers]:
    """Read what an evaluation kept by image and by pair of images (see ``save_results``).

    Clusters keep the classes that all images gave them.
    """
    utility = next((name for name in BY_IMAGE if name in model.settings), BY_IMAGE[0])
    path = results_file(results_dir, utility, model.name).with_suffix(".npz")
    if not path.is_file():
        return {}
    with (
        reading(path, f"remove it and run --utility {utility} again"),
        np.load(path, allow_pickle=False) as stored,
    ):
        counts = dict(stored)
        images = counts.pop("image_ids")
        pairs, outcomes = (
            counts.pop(name, None) for name in ("matching_image_ids", "sentence_image_matching")
        )

        def score_images(drawn: np.ndarray) -> dict[str, Any]:
            return {name: summed_scores(rows[drawn]) for name, rows in counts.items()}

        def score_pairs(drawn: np.ndarray) -> dict[str, Any]:
            return {"sentence_image_matching": matching_scores(outcomes[drawn])}

        found = {"images": Answers(images.tolist(), score_images)}
        if pairs is not None:
            found["pairs of images"] = Answers(pairs.tolist(), score_pairs)
        return found


def all_p_values(
    results_dir: Path, models: Sequence[ModelResults], seed: int
) -> dict[tuple[str, str], float]:
    """Return p-values by metric's label and setting, over words, images and pairs of images.

    What is stored by unit counts if it is of the first model's units and scores as the results:
    it may be of another training of that name, or of other words. Models without are logged.
    """
    found: dict[tuple[str, str], float] = {}
    settings = by_setting(models)
    if len(settings) < 2:
        return found
    answers = {
        model.name: read_word_answers(results_dir / f"word_clusters_{model.name}.csv")
        | read_image_answers(results_dir, model)
        for model in models
    }
    advice = {
        "words": "word_clusters stores them, of a baseline of clusters with its --model_type",
        "images": "visual_evaluation stores them",
        "pairs of images": "visual_evaluation stores them",
    }
    for what in advice:
        usable: dict[str, Answers] = {}
        first = answers[models[0].name].get(what)
        for model in models:
            own = answers[model.name].get(what)
            scores = np.array([model.metrics.get(path) for path in RESAMPLED], dtype=float)
            if own is None or first is None or own.units != first.units:
                continue
            if not (np.abs(own.whole - scores) > SAME_SCORE).any():  # NaN is not
                usable[model.name] = own
        asked = [m for m in models if what == "words" or m.settings.keys() & set(BY_IMAGE)]
        lacking = ", ".join(model.name for model in asked if model.name not in usable)
        if lacking:
            logger.info(
                "no significance over %s for %s: no answers by %s that fit the results are stored; "
                "--utility %s",
                what, lacking, what, advice[what],
            )  # fmt: skip
        groups = {
            setting: [usable[member.name] for member in members]
            for setting, members in settings.items()
            if all(member.name in usable for member in members)
        }
        if models[0].setting not in groups or len(groups) < 2:
            continue
        p_values = significance(list(groups.values()), seed, DRAWS)  # (S, P)
        for setting, row in zip(list(groups)[1:], p_values[1:], strict=True):
            labelled = zip(RESAMPLED.values(), row, strict=True)
            found |= {(label, setting): float(p) for label, p in labelled if not np.isnan(p)}
    return found


def significance(groups: Sequence[Sequence[Answers]], seed: int, draws: int) -> np.ndarray:
    """Return how easily a setting's difference from the first could come from the choice of units.

    Each draw takes a random half of the units, the same for all models, and a setting's score is
    the mean over its seeds. Halves of n units, drawn without replacement, vary around the whole as
    samples of n vary around the population (subsampling, Politis, Romano and Wolf 1999, with n/2
    of n). A word that is drawn twice would share category and cluster with itself and so raise the
    agreement of both. It says nothing of other data, nor of the choice of seeds.

    ``groups`` hold S settings' answers of each seed, all about the same units. Returns (S, P)
    two-sided p-values: the share of D ``draws`` whose difference is at least as far from their
    mean as the whole's is from 0, where the whole counts as one more draw. NaN where the
    difference is undefined, or in all draws.
    """
    count = len(groups[0][0].units)
    rng = np.random.default_rng(seed)
    drawn = [np.arange(count), *(rng.permutation(count)[: count // 2] for _ in range(draws))]
    scores = np.array(
        [
            [np.mean([one.scores(units) for one in seeds], axis=0) for seeds in groups]
            for units in with_bar(drawn, "drawing halves", "draw")
        ]
    )  # (1 + D, S, P)
    differences = scores[:, :1] - scores
    whole, of_draws = differences[0], differences[1:]
    defined = (~np.isnan(of_draws + whole)).sum(axis=0)  # (S, P)
    mean = np.nansum(of_draws, axis=0) / np.maximum(defined, 1)
    away = np.abs(of_draws - mean) >= np.abs(whole) - 1e-12  # rounding; never for NaN
    return np.where(defined > 0, (1 + away.sum(axis=0)) / (1 + defined), np.nan)
