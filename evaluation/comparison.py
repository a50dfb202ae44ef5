"""Several models' stored results beside each other, as a paper's table.

Models whose names differ only in a number at the end or before ``_best`` (``lstm_0`` and
``lstm_1``, ``lstm_0_best`` and ``lstm_1_best``) are the seeds of one setting.

Axes: U units (words, images or pairs of images), D draws of units, S settings, P resampled metrics.
"""

import argparse
import fnmatch
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
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
from evaluation.results import results_file
from evaluation.sentence_image_matching import matching_scores
from utils.errors import UserError
from utils.files import reading, write_text
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
WITHOUT_WORD_LIST = ("concreteness_evaluation", "train_concreteness_supervised_model")
# entries of data or settings that must be alike -> what it means that they differ
ALIKE_FOR_WORDS = {
    "train_fingerprint": "other training captions",
    "norms_fingerprint": "other norms",
    "word_list_sha256": "another word list",
    "dataset": "another data set",
}
ALIKE_FOR_IMAGES = {
    "test_fingerprint": "other test captions or boxes",
    "dataset": "another data set",
}
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
    data: dict[str, dict[str, Any]]  # by utility

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
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = fnmatch.filter(by_number, pattern)
        if not found:
            raise UserError(
                f"no stored results match '{pattern}' in {results_dir} "
                f"({'there are ' + ', '.join(by_number) if present else 'there are none'}); run "
                "--utility text_evaluation and visual_evaluation, or check --results_dir"
            )
        chosen |= dict.fromkeys(found)
    return list(chosen)


def read_results(results_dir: Path, name: str) -> ModelResults:
    """Read all results files of a model, which must be of one training."""
    metrics: dict[str, float | None] = {}
    settings, data, trainings = {}, {}, {}
    for utility in SOURCES:
        path = results_dir / f"{utility}_{name}.json"
        if not path.is_file():
            continue
        with reading(path, f"remove it and run --utility {utility} again"):
            content = json.loads(path.read_text(encoding="utf-8"))
            found = flatten(content["metrics"])
            metrics = {k: None if v is None else float(v) for k, v in found.items()} | metrics
            settings[utility], data[utility] = dict(content["settings"]), dict(content["data"])
            origin = settings[utility].get("origin")  # a baseline has none
            trainings[utility] = origin and (origin["run"], origin["step"])
    first, *others = trainings
    for other in others:
        if trainings[other] != trainings[first]:
            raise UserError(
                f"{first} and {other} of '{name}' are of different trainings, or one is of a "
                "baseline; run both again, a baseline with a --model_name of its own"
            )
    return ModelResults(name, metrics, settings, data)


def by_setting(models: Sequence[ModelResults]) -> dict[str, list[ModelResults]]:
    """Group models by setting, in order of first appearance."""
    groups: dict[str, list[ModelResults]] = {}
    for model in models:
        groups.setdefault(model.setting, []).append(model)
    return groups


def require_comparable(models: Sequence[ModelResults]) -> None:
    """See that all models were evaluated on the same data, and a setting's seeds alike."""
    seen: dict[tuple[bool, str], tuple[str, str, Any]] = {}
    for model in models:
        for utility, settings in model.settings.items():
            by_image = utility in BY_IMAGE
            for key, meaning in (ALIKE_FOR_IMAGES if by_image else ALIKE_FOR_WORDS).items():
                if key == "word_list_sha256" and utility in WITHOUT_WORD_LIST:
                    continue
                value = model.data[utility].get(key, settings.get(key))
                name, first, wanted = seen.setdefault((by_image, key), (model.name, utility, value))
                if value != wanted:
                    raise UserError(
                        f"{utility} of '{model.name}' was on other data than {first} of '{name}' "
                        f"({meaning}); evaluate both alike, then compare"
                    )
    for first_seed, *others in by_setting(models).values():
        for model in others:
            for utility in first_seed.settings.keys() & model.settings.keys():
                one, two = first_seed.settings[utility], model.settings[utility]
                for key in (one.keys() | two.keys()) - OF_ONE_RUN:
                    if one.get(key) != two.get(key):
                        raise UserError(
                            f"'{first_seed.name}' and '{model.name}' would be averaged as seeds of "
                            f"one setting, but differ ({key} {one.get(key)!r} and "
                            f"{two.get(key)!r}); evaluate them alike, or train under names that "
                            "differ in more than the number"
                        )


def threshold_notes(models: Sequence[ModelResults]) -> list[str]:
    """Say where models were evaluated at different thresholds."""
    notes = []
    for utility, key in product(SOURCES, ("text_threshold", "visual_threshold")):
        settings_at: dict[Any, dict[str, None]] = {}
        for model in models:
            if key in model.settings.get(utility, {}):
                settings_at.setdefault(model.settings[utility][key], {})[model.setting] = None
        if len(settings_at) > 1:
            found = "; ".join(
                f"{value:.4g} for {', '.join(at)}" for value, at in settings_at.items()
            )
            notes.append(f"{utility} was at different values of {key}: {found}.")
    return notes


# ---- the table


def comparison_table(models: Sequence[ModelResults]) -> pd.DataFrame:
    """Return a row for each metric, or its chance level, and setting.

    A mean is undefined unless all seeds of the setting have the figure: a mean over those that
    happen to be defined would be another quantity. Rows that no setting has are left out.
    """
    values = []
    for metric in METRICS:
        own = [model.metrics.get(metric.path) for model in models]
        chance = [
            None if value is None else chance_level(model.metrics, metric.path)
            for model, value in zip(models, own, strict=True)
        ]
        for label, row in ((metric.label, own), (f"{metric.label} (random)", chance)):
            if set(row) != {None}:
                settings = [model.setting for model in models]
                values.append(pd.DataFrame({"metric": label, "setting": settings, "value": row}))
    return mean_over_seeds(pd.concat(values)) if values else pd.DataFrame()


def mean_over_seeds(figures: pd.DataFrame) -> pd.DataFrame:
    """Return mean, deviation and number of the ``value`` of each ``metric`` and ``setting``."""
    groups = figures.astype({"value": float}).groupby(["metric", "setting"], sort=False)["value"]
    return pd.DataFrame(
        {
            "mean": groups.mean(skipna=False),
            "standard_deviation": groups.std(skipna=False),
            "seeds": groups.size(),
        }
    ).reset_index()


def table_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text with a column for each setting; p-values follow their metric."""
    settings = list(dict.fromkeys(table["setting"]))
    lines: list[list[str]] = []
    for metric, rows in table.groupby("metric", sort=False):
        cells = rows.set_index("setting")
        lines.append([str(metric)])
        for mean, deviation in cells.loc[settings, ["mean", "standard_deviation"]].to_numpy():
            spread = "" if np.isnan(deviation) else f" ± {deviation:.3f}"
            lines[-1].append("-" if np.isnan(mean) else f"{mean:.3f}{spread}")
        p_values = cells.get("p_value", pd.Series(dtype=float)).dropna()
        if len(p_values):
            shown = [f"{p_values[s]:.3f}" if s in p_values else "-" for s in settings]
            lines.append([f"  p against {settings[0]}", *shown])
    return pd.DataFrame([line[1:] for line in lines], [line[0] for line in lines], settings)


def as_markdown(cells: pd.DataFrame) -> str:
    """Return cells as a Markdown table."""
    align = ("left", *("right" for _ in cells.columns))
    table: str = cells.to_markdown(colalign=align, disable_numparse=True)
    return table + "\n"


def as_latex(cells: pd.DataFrame) -> str:
    """Return cells as a LaTeX tabular in the style of booktabs."""
    latex: str = cells.to_latex(escape=True, column_format="l" + "r" * len(cells.columns))
    for pattern, signed in (
        (" ± ", r" $\\pm$ "),
        (">", "$>$"),
        (r"(?<=& )-(?=\d)", "$-$"),  # a minus; names keep their hyphens
        (r"^  p against", r"\\quad p against"),
    ):
        latex = re.sub(pattern, signed, latex, flags=re.MULTILINE)
    return "% needs \\usepackage{booktabs}\n" + latex


# ---- significance


class Answers:
    """What a model answered about U units: words, images or pairs of images."""

    def __init__(self, units: tuple[Any, ...], score: Callable[[np.ndarray], dict[str, Any]]):
        self.units = units
        self.score = score  # positions of drawn units -> nested metrics
        self.whole = self.scores(np.arange(len(units)))  # (P,)

    def scores(self, drawn: np.ndarray) -> np.ndarray:
        """Return the ``RESAMPLED`` metrics of drawn units, (P,) with NaN for what is undefined."""
        found = flatten(self.score(drawn))
        return np.array([found.get(path) for path in RESAMPLED], dtype=float)


def read_word_answers(path: Path) -> Answers | None:
    """Read a table of ``word_clusters``, of its words with category or rating; None without."""
    if not path.is_file():
        return None
    numbers = ("count", "cluster", "concreteness", "concreteness_rating")
    with reading(path, "write it again with --utility word_clusters"):
        table = pd.read_csv(
            path,
            keep_default_na=False,  # "null" is a word
            na_values={column: [""] for column in numbers},
            dtype=dict.fromkeys(numbers, float) | {"word": str, "category": str},
        )
        table = table[(table["category"] != "") | table["concreteness_rating"].notna()]
        count, cluster, concreteness, rating = (table[column].to_numpy() for column in numbers)
        category = table["category"].factorize()[0]
        placed = (table["category"] != "").to_numpy() & ~np.isnan(cluster)
        rated = ~np.isnan(concreteness + rating)

        def score(drawn: np.ndarray) -> dict[str, Any]:
            known, scored = drawn[placed[drawn]], drawn[rated[drawn]]
            words = categorization_scores(category[known], cluster[known])
            return {
                "categorization": {"known_words": words},
                "concreteness": concreteness_scores(
                    concreteness[scored], rating[scored], count[scored], [20]
                ),
            }

        return Answers(tuple(table["word"]), score)


def read_image_answers(results_dir: Path, model: ModelResults) -> dict[str, Answers]:
    """Read what an evaluation kept by image and by pair of images (see ``save_results``).

    Clusters keep the classes that all images gave them.
    """
    utility = next(name for name in BY_IMAGE if name in model.settings)
    path = results_file(results_dir, utility, model.name, "npz")
    if not path.is_file():
        return {}
    with (
        reading(path, f"remove it and run --utility {utility} again"),
        np.load(path, allow_pickle=False) as stored,
    ):
        counts = dict(stored)
        images = tuple(counts.pop("image_ids").tolist())
        pairs = tuple(map(tuple, counts.pop("matching_image_ids", np.zeros((0, 2))).tolist()))
        outcomes = counts.pop("sentence_image_matching", np.zeros((0, 2)))

        def score_images(drawn: np.ndarray) -> dict[str, Any]:
            weights = np.bincount(drawn, minlength=len(images))
            return {name: summed_scores((weights @ rows)[None]) for name, rows in counts.items()}

        def score_pairs(drawn: np.ndarray) -> dict[str, Any]:
            return {"sentence_image_matching": matching_scores(outcomes[drawn])}

        return {
            "images": Answers(images, score_images),
            "pairs of images": Answers(pairs, score_pairs),
        }


def all_p_values(
    results_dir: Path, models: Sequence[ModelResults], seed: int
) -> dict[tuple[str, str], float]:
    """Return p-values by metric's label and setting, over words, images and pairs of images.

    Where there are none over one kind of units, the reason is logged.
    """
    found: dict[tuple[str, str], float] = {}
    if len(by_setting(models)) < 2:
        return found
    of_words = {
        model.name: read_word_answers(results_dir / f"word_clusters_{model.name}.csv")
        for model in models
    }
    of_images = {
        model.name: read_image_answers(results_dir, model)
        for model in models
        if model.settings.keys() & set(BY_IMAGE)
    }
    advice = "word_clusters stores them, of a baseline of clusters with its --model_type"
    units: list[tuple[str, dict[str, Answers | None], str]] = [("words", of_words, advice)]
    for what in ("images", "pairs of images"):
        answers = {name: one.get(what) for name, one in of_images.items()}
        units.append((what, answers, "visual_evaluation stores them"))
    for what, answers, advice in units:
        stored = {name: one for name, one in answers.items() if one is not None}
        lacking = ", ".join(name for name in answers if name not in stored)
        if lacking:
            message = "no significance over %s for %s: no answers by %s are stored; --utility %s"
            logger.info(message, what, lacking, what, advice)
        groups = {
            setting: [stored[member.name] for member in members]
            for setting, members in by_setting(models).items()
            if all(member.name in stored for member in members)
        }
        if models[0].setting not in groups or len(groups) < 2:
            continue
        compared = [model for model in models if model.setting in groups]
        if len({stored[model.name].units for model in compared}) > 1:
            logger.info("no significance over %s: they are not the same for all models", what)
            continue
        scores = np.array([[m.metrics.get(path) for path in RESAMPLED] for m in compared], float)
        apart = np.abs([stored[model.name].whole for model in compared] - scores) > SAME_SCORE
        if apart.any():
            logger.info(
                "no significance over %s: what is stored of them scores otherwise than the results "
                "of %s (another training of that name, or a --word_list); --utility %s",
                what,
                compared[apart.any(axis=1).argmax()].name,
                advice,
            )
            continue
        for setting, row in zip(
            list(groups)[1:], significance(groups, seed, DRAWS)[1:], strict=True
        ):
            labelled = zip(RESAMPLED.values(), row, strict=True)
            found |= {(label, setting): float(p) for label, p in labelled if not np.isnan(p)}
    return found


def significance(groups: Mapping[str, Sequence[Answers]], seed: int, draws: int) -> np.ndarray:
    """Return how easily a setting's difference from the first could come from the choice of units.

    Each draw takes a random half of the units, the same for all models, and a setting's score is
    the mean over its seeds. Halves of n units, drawn without replacement, vary around the whole as
    samples of n vary around the population (subsampling, Politis, Romano and Wolf 1999, with n/2
    of n). Drawing with replacement would not do: a word that is drawn twice shares category and
    cluster with itself, which raises the agreement of both, the more so the more clusters there
    are. It says nothing of other data, nor of the choice of seeds.

    ``groups`` hold, by setting, the answers of each of its seeds, all about the same units. Returns
    (S, P) two-sided p-values: the share of D ``draws`` whose difference is at least as far from
    their mean as the whole's is from 0, where the whole counts as one more draw. NaN where the
    difference is undefined, or in all draws.
    """

    def differences(drawn: np.ndarray) -> np.ndarray:
        means = np.array(
            [np.mean([one.scores(drawn) for one in seeds], axis=0) for seeds in groups.values()]
        )  # (S, P)
        return np.asarray(means[0] - means)

    count = len(next(iter(groups.values()))[0].units)
    rng = np.random.default_rng(seed)
    whole = differences(np.arange(count))  # (S, P)
    of_draws = np.array(
        [
            differences(rng.permutation(count)[: count // 2])
            for _ in with_bar(range(draws), "drawing halves", "draw")
        ]
    )  # (D, S, P)
    defined = (~np.isnan(of_draws + whole)).sum(axis=0)  # (S, P)
    mean = np.nansum(of_draws, axis=0) / np.maximum(defined, 1)
    away = np.abs(of_draws - mean) >= np.abs(whole) - 1e-12  # rounding; never for NaN
    return np.where(defined > 0, (1 + away.sum(axis=0)) / (1 + defined), np.nan)
