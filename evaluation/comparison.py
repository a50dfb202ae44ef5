"""Several models' stored results beside each other, as a paper's table.

Models whose names differ only in a number at the end (``lstm_0``, ``lstm_1``) are the seeds of one
setting. Everything here works on results files that other utilities wrote.

Axes: R rows, a metric or its chance level each; S settings; W words; N images; M pairs of images.
"""

import csv
import fnmatch
import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from evaluation.categorization import categorization_scores
from evaluation.classification import summed_scores
from evaluation.concreteness import concreteness_scores
from evaluation.reports import CHANCE_SUFFIX, EQUAL_GUESS_SUFFIX, by_image_file, flatten
from evaluation.sentence_image_matching import matching_scores
from utils.errors import UserError
from utils.files import parse_json, read_lines, read_text
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

# row of the table -> (section of the results, metric in it)
METRICS = {
    "words: adjusted mutual information": (
        "categorization", "known_words.adjusted_mutual_info",
    ),
    "words: F-score": ("categorization", "known_words.f_score"),
    "words: V-measure": ("categorization", "known_words.v_measure"),
    "concreteness r": ("concreteness", "pearson_by_min_count.0.r"),
    "concreteness r, count > 20": ("concreteness", "pearson_by_min_count.20.r"),
    "log frequency r, count > 20": ("concreteness", "frequency_baseline_by_min_count.20.r"),
    "word association": ("word_association", "mean_association_strength"),
    "class names f1": ("class_name_classification", "f1"),
    "classes by co-occurrence f1": ("cluster_classification_co_occurrence", "f1"),
    "boxes f1": ("bounding_box", "f1"),
    "heatmaps f1": ("heatmap", "f1"),
    "sentence-image matching": ("sentence_image_matching", "accuracy"),
}  # fmt: skip
MATCHING = "sentence_image_matching"
SAME_SCORE = 1e-5  # a difference up to which two scores are the same
# what must be alike for figures to be comparable, of all utilities that score words, or images
ALIKE_OF_WORDS = (
    "train_images", "train_captions", "train_fingerprint", "filtered", "norms_fingerprint",
)  # fmt: skip
ALIKE_OF_IMAGES = ("test_images", "test_fingerprint", "image_files_fingerprint", "filtered")
WITHOUT_WORD_LIST = ("concreteness_evaluation", "train_concreteness_supervised_model")
# of values that say nothing to people, what it means that they differ
DIFFERENCES = {
    "train_fingerprint": "other training captions",
    "test_fingerprint": "other test captions or boxes",
    "image_files_fingerprint": "other image files",
    "norms_fingerprint": "other norms",
    "word_list_sha256": "another word list",
}
# settings in which the seeds of one setting differ
OF_ONE_RUN = frozenset({"seed", "evaluation_seed", "origin"})


@dataclass(frozen=True)
class ModelResults:
    """What the results files of one model hold."""

    name: str
    metrics: dict[str, float | None]  # flattened, see ``flatten``
    settings: dict[str, dict[str, Any]]  # by utility
    conditions: dict[str, dict[str, Any]]  # by utility: data and word list

    @property
    def setting(self) -> str:
        """The name without the seed at its end."""
        return re.sub(r"_\d+$", "", self.name)


def matching_models(results_dir: Path, patterns: Sequence[str]) -> list[str]:
    """Return the names of the models with results that match, each once, pattern by pattern.

    Args:
        results_dir: The folder of the results files.
        patterns: Names, or patterns with ``*``, ``?`` and ``[...]`` as in a shell; the matches of
            a pattern are sorted, numbers by size.

    Raises:
        UserError: nothing matches one of them.
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
        found = [name for name in by_number if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise UserError(
                f"no stored results match '{pattern}' in {results_dir} "
                f"({'there are ' + ', '.join(by_number) if present else 'there are none'}); run "
                "--utility text_evaluation and visual_evaluation, or check --results_dir"
            )
        chosen |= dict.fromkeys(found)
    return list(chosen)


def read_results(results_dir: Path, name: str) -> ModelResults:
    """Read all results files of a model.

    Raises:
        UserError: a file is not one that this program wrote.
    """
    metrics: dict[str, float | None] = {}
    settings, conditions, runs = {}, {}, {}
    for utility in SOURCES:
        path = results_dir / f"{utility}_{name}.json"
        if not path.is_file():
            continue
        try:
            content = parse_json(read_text(path, "the results file"))
            found = flatten(content["metrics"])
            if any(
                value is not None and type(value) not in (int, float) for value in found.values()
            ):
                raise TypeError("a metric is no number")
            settings[utility] = dict(content["settings"])
            conditions[utility] = _conditions(utility, content["data"], settings[utility])
            if "origin" in settings[utility]:
                origin = settings[utility]["origin"]
                runs[utility] = origin["run"], origin["step"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} is no results file of --utility {utility}; remove it and evaluate again"
            ) from None
        metrics = found | metrics
    _require_one_training(name, list(settings), runs)
    return ModelResults(name, metrics, settings, conditions)


def _conditions(
    utility: str, data: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what of a utility's results must be alike; None for what is not recorded."""
    keys = ALIKE_OF_IMAGES if utility in BY_IMAGE else ALIKE_OF_WORDS
    found = {key: data.get(key) for key in keys} | {"dataset": settings.get("dataset")}
    if utility not in (*BY_IMAGE, *WITHOUT_WORD_LIST):
        found["word_list_sha256"] = settings.get("word_list_sha256")
    return found


def _require_one_training(
    name: str, utilities: Sequence[str], runs: Mapping[str, tuple[Any, Any]]
) -> None:
    """See that all results of a name are of one training, or all of baselines.

    Args:
        name: The model's.
        utilities: Those with results.
        runs: Run and step of the joint model that a utility scored; a baseline has none.

    Raises:
        UserError: they are not.
    """
    if not runs:
        return
    first, run = next(iter(runs.items()))
    for utility in utilities:
        if utility not in runs:
            raise UserError(
                f"{utility} of '{name}' is of a baseline, {first} of a joint model; remove one, "
                "and give the baseline a --model_name of its own"
            )
        if runs[utility] != run:
            raise UserError(
                f"{first} and {utility} of '{name}' are of different trainings; run both again, "
                "then compare"
            )


def require_comparable(models: Sequence[ModelResults]) -> None:
    """See that all models were evaluated alike, and that a setting's seeds are of one setting.

    Raises:
        UserError: they were not, or are not; the first difference is named.
    """
    asked: dict[tuple[bool, str], tuple[str, str, Any]] = {}  # the first of each condition
    for model in models:
        for utility, conditions in model.conditions.items():
            for key, value in conditions.items():
                here = utility, model.name, value
                before = asked.setdefault((utility in BY_IMAGE, key), here)
                if value != before[2]:
                    raise _unlike(key, before, here)
    for members in by_setting(models).values():
        first = members[0]
        for model in members[1:]:
            for utility in first.settings.keys() & model.settings.keys():
                difference = _difference(
                    first.settings[utility], model.settings[utility], OF_ONE_RUN
                )
                if difference is not None:
                    raise UserError(
                        f"'{first.name}' and '{model.name}' would be averaged as seeds of one "
                        f"setting, but differ ({difference}); evaluate them alike, or train under "
                        "names that differ in more than the number at the end"
                    )


def _unlike(key: str, first: tuple[str, str, Any], second: tuple[str, str, Any]) -> UserError:
    """Return the error for two results, each utility, model and value, that differ in a key."""
    for utility, name, value in (first, second):
        if key.endswith("fingerprint") and value is None:
            return UserError(
                f"{utility} of '{name}' was stored by an earlier version, which did not record "
                "its data; run it again, then compare"
            )
    difference = DIFFERENCES.get(key, f"{key} {first[2]!r} and {second[2]!r}")
    return UserError(
        f"{second[0]} of '{second[1]}' was on other data than {first[0]} of '{first[1]}' "
        f"({difference}); evaluate both alike, then compare"
    )


def _difference(
    first: Mapping[str, Any], second: Mapping[str, Any], besides: frozenset[str] = frozenset()
) -> str | None:
    """Return the first entry in which two dicts differ, in words, or None."""
    for key in dict.fromkeys([*first, *second]):
        if key not in besides and first.get(key) != second.get(key):
            return f"{key} {first.get(key)!r} and {second.get(key)!r}"
    return None


def by_setting(models: Sequence[ModelResults]) -> dict[str, list[ModelResults]]:
    """Group models by setting, in order of first appearance."""
    groups: dict[str, list[ModelResults]] = {}
    for model in models:
        groups.setdefault(model.setting, []).append(model)
    return groups


@dataclass(frozen=True)
class Cell:
    """A figure of one setting: its mean and standard deviation over seeds."""

    mean: float
    deviation: float | None  # sample standard deviation; None of a single seed
    seeds: int


Table = dict[str, dict[str, Cell | None]]  # row -> setting -> cell; None where it is undefined


def comparison_table(models: Sequence[ModelResults]) -> Table:
    """Return every metric of ``METRICS`` that a model has, with the chance level below it.

    A cell is None unless all seeds of the setting have the figure: a mean over those that happen
    to be defined would be another quantity.
    """
    groups = by_setting(models)
    rows: Table = {}
    for label, (section, metric) in METRICS.items():
        is_located = section in ("bounding_box", "heatmap")
        suffix = EQUAL_GUESS_SUFFIX if is_located else CHANCE_SUFFIX
        for row, path in (
            (label, f"{section}.{metric}"),
            (f"{label} (random)", f"{section}{suffix}.{metric}"),
        ):
            cells = {
                setting: mean_over_seeds([model.metrics.get(path) for model in members])
                for setting, members in groups.items()
            }
            if any(cell is not None for cell in cells.values()):
                rows[row] = cells
    return rows


def mean_over_seeds(values: Sequence[float | None]) -> Cell | None:
    """Return the mean and deviation of a figure over seeds; None where one of them lacks it."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Cell(statistics.mean(known), deviation, len(known))


@dataclass(frozen=True)
class WordAnswers:
    """A model's words as ``word_clusters`` wrote them, those with a norm."""

    words: tuple[str, ...]
    counts: np.ndarray  # (W,) int64
    clusters: np.ndarray  # (W,) int64, -1 for words the model does not know
    concreteness: np.ndarray  # (W,) float64, the model's; NaN of a model without
    ratings: np.ndarray  # (W,) float64, NaN without a rating
    categories: np.ndarray  # (W,) int64, -1 without a category

    @property
    def units(self) -> tuple[str, ...]:
        """What is drawn for significance."""
        return self.words


def read_word_answers(path: Path) -> WordAnswers | None:
    """Read a CSV of the ``word_clusters`` utility; None where there is no such file.

    Raises:
        UserError: it is malformed.
    """
    if not path.is_file():
        return None
    rows = list(csv.DictReader(read_lines(path, "the table of words")))
    try:
        kept = [row for row in rows if row["concreteness_rating"] or row["category"]]
        categories = sorted({row["category"] for row in kept} - {""})
        return WordAnswers(
            tuple(row["word"] for row in kept),
            np.array([int(row["count"]) for row in kept], dtype=np.int64),
            np.array([int(row["cluster"] or -1) for row in kept], dtype=np.int64),
            np.array([float(row["concreteness"] or "nan") for row in kept], dtype=np.float64),
            np.array([float(row["concreteness_rating"] or "nan") for row in kept]),
            np.array(
                [categories.index(row["category"]) if row["category"] else -1 for row in kept],
                dtype=np.int64,
            ),
        )
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"{path} is no table of --utility word_clusters; write it again with that"
        ) from None


def word_scores(answers: WordAnswers, drawn: np.ndarray) -> dict[str, float | None]:
    """Return the rows of ``METRICS`` that can be resampled over words, for drawn words.

    Args:
        answers: About W words.
        drawn: Positions of words, any number.

    Returns:
        Values as in the definitions of ``categorization`` (of known words) and ``concreteness``;
        None where they are undefined.
    """
    known = drawn[(answers.categories[drawn] >= 0) & (answers.clusters[drawn] >= 0)]
    scores = categorization_scores(answers.categories[known], answers.clusters[known])
    rated = drawn[~np.isnan(answers.ratings[drawn] + answers.concreteness[drawn])]
    concreteness = concreteness_scores(
        answers.concreteness[rated], answers.ratings[rated], answers.counts[rated], [20]
    )
    return {
        "words: adjusted mutual information": scores["adjusted_mutual_info"],
        "words: F-score": scores["f_score"],
        "concreteness r, count > 20": concreteness["pearson_by_min_count"]["20"]["r"],
    }


@dataclass(frozen=True)
class ImageAnswers:
    """What an evaluation found image by image, or pair by pair, of one kind of units."""

    units: tuple[Any, ...]  # N ids of images, or M pairs of such
    # section -> (N, 3) true positives, false positives, false negatives; or (M, 2) outcomes, see
    # ``matching_outcomes``
    arrays: dict[str, np.ndarray]


def read_image_answers(
    results_dir: Path, model: ModelResults
) -> tuple[ImageAnswers, ImageAnswers] | None:
    """Read what an evaluation kept by image, see ``write_by_image``; None where there is nothing.

    Returns:
        What images count, and the outcomes of matching by pair of images.

    Raises:
        UserError: the file is damaged.
    """
    utility = next((name for name in BY_IMAGE if name in model.settings), None)
    if utility is None:
        return None
    path = by_image_file(results_dir, utility, model.name)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        images = tuple(arrays.pop("image_ids").tolist())
        pairs = arrays.pop("matching_image_ids", np.zeros((0, 2), dtype=np.int64))
        outcomes = arrays.pop(MATCHING, np.zeros((0, 2), dtype=np.int8))
        shapes = {values.shape for values in arrays.values()} - {(len(images), 3)}
        if shapes or outcomes.shape != pairs.shape or pairs.shape != (len(pairs), 2):
            raise ValueError(shapes)
        kinds = [values.dtype.kind for values in (pairs, outcomes, *arrays.values())]
        if set(kinds) != {"i"}:
            raise ValueError(kinds)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        raise UserError(f"{path} is damaged; remove it and run --utility {utility} again") from None
    matching = {MATCHING: outcomes} if len(pairs) else {}
    return ImageAnswers(images, arrays), ImageAnswers(tuple(map(tuple, pairs.tolist())), matching)


def image_scores(answers: ImageAnswers, drawn: np.ndarray) -> dict[str, float | None]:
    """Return the rows of ``METRICS`` that can be resampled over images, for drawn images.

    Clusters keep the classes that all images gave them.

    Args:
        answers: About N images.
        drawn: Positions of images, any number.

    Returns:
        The f1 of each row that is counted by image; None where it is undefined or not measured.
    """
    weights = np.bincount(drawn, minlength=len(answers.units))  # (N,)
    return {
        row: summed_scores((weights @ answers.arrays[section])[None])["f1"]
        if section in answers.arrays
        else None
        for row, (section, metric) in METRICS.items()
        if metric == "f1"
    }


def pair_scores(answers: ImageAnswers, drawn: np.ndarray) -> dict[str, float | None]:
    """Return the row of ``METRICS`` that can be resampled over pairs of images, for drawn pairs."""
    (row,) = (row for row, (section, _) in METRICS.items() if section == MATCHING)
    outcomes = answers.arrays.get(MATCHING)  # (M, 2)
    return {row: None if outcomes is None else matching_scores(outcomes[drawn])["accuracy"]}


def agrees(model: ModelResults, scores: Mapping[str, float | None]) -> bool:
    """Say whether scores of all units are those of the model's results, so of the same training.

    A row that the results or the units lack says nothing. Tables of words are rounded.
    """
    for row, value in scores.items():
        stored = model.metrics.get(".".join(METRICS[row]))
        if value is not None and stored is not None and abs(value - stored) > SAME_SCORE:
            return False
    return True


_Answers = TypeVar("_Answers", WordAnswers, ImageAnswers)


def significance(
    answers: Mapping[str, Sequence[_Answers]],
    scores: Callable[[_Answers, np.ndarray], Mapping[str, float | None]],
    *,
    draws: int,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Return how easily a setting's difference from the first could come from the choice of units.

    Each draw takes a random half of the units (words, images or pairs of images), the same for all
    models, and a setting's score is the mean over its seeds. Halves of n units, drawn without
    replacement, vary around the whole as samples of n vary around the population (subsampling,
    Politis, Romano and Wolf 1999, with n/2 of n). Drawing with replacement would not do: a word
    that is drawn twice shares category and cluster with itself, which raises the agreement of both,
    the more so the more clusters there are. It says nothing of other data, nor of the choice of
    seeds.

    Args:
        answers: By setting, of each of its seeds; at least one setting, all about the same units.
        scores: Returns rows of scores of a model for drawn units.
        draws: Number of draws.
        seed: Of the draws.

    Returns:
        ``subsampling_p`` by row and setting, without the first setting.

    Raises:
        ValueError: the answers are about different units.
    """
    units = next(iter(answers.values()))[0].units
    if any(one.units != units for members in answers.values() for one in members):
        raise ValueError("answers about different units cannot be paired")
    rng = np.random.default_rng(seed)
    whole = _differences(answers, scores, np.arange(len(units)))
    of_draws: dict[tuple[str, str], list[float]] = {place: [] for place in whole}
    for _ in with_bar(range(draws), "drawing halves", "draw"):
        drawn = rng.permutation(len(units))[: len(units) // 2]
        for place, difference in _differences(answers, scores, drawn).items():
            if difference is not None:
                of_draws[place].append(difference)
    found: dict[str, dict[str, float | None]] = {}
    for (row, setting), difference in whole.items():
        p = subsampling_p(difference, np.array(of_draws[row, setting]))
        found.setdefault(row, {})[setting] = p
    return found


def _differences(
    answers: Mapping[str, Sequence[_Answers]],
    scores: Callable[[_Answers, np.ndarray], Mapping[str, float | None]],
    drawn: np.ndarray,
) -> dict[tuple[str, str], float | None]:
    """Return by (row, setting) how far the first setting's score lies above it on drawn units."""
    found = {
        setting: [scores(one, drawn) for one in members] for setting, members in answers.items()
    }
    reference, *others = found
    differences: dict[tuple[str, str], float | None] = {}
    for row in found[reference][0]:
        means = {
            setting: mean_over_seeds([of_seed[row] for of_seed in of_seeds])
            for setting, of_seeds in found.items()
        }
        first = means[reference]
        for setting in others:
            mean = means[setting]
            differences[row, setting] = (
                None if first is None or mean is None else first.mean - mean.mean
            )
    return differences


def subsampling_p(difference: float | None, of_draws: np.ndarray) -> float | None:
    """Return the two-sided p-value of a difference being 0.

    The share of draws (D,) whose difference is at least as far from their mean as the whole's is
    from 0, where the whole counts as one more draw, so that it is never 0. None where the
    difference is undefined, or without draws.
    """
    if difference is None or not len(of_draws):
        return None
    away = np.abs(of_draws - of_draws.mean()) >= abs(difference) - 1e-12  # rounding
    return float((1 + away.sum()) / (1 + len(of_draws)))


def table_cells(
    table: Table, p_values: Mapping[str, Mapping[str, float | None]], pm: str
) -> list[list[str]]:
    """Return the table as text: a heading, then a row for each metric.

    Args:
        table: Of ``comparison_table``.
        p_values: By row and setting; a row of them follows the row they are of.
        pm: What stands between mean and deviation.
    """
    settings = list(next(iter(table.values()))) if table else []
    lines = [["", *settings]]
    for row, cells in table.items():
        lines.append([row, *(_shown(cells[setting], pm) for setting in settings)])
        if row in p_values:
            values = [p_values[row].get(setting) for setting in settings]
            shown = ["-" if value is None else f"{value:.3f}" for value in values]
            lines.append([f"  p against {settings[0]}", *shown])
    return lines


def _shown(cell: Cell | None, pm: str) -> str:
    """Return a cell as text."""
    if cell is None:
        return "-"
    return f"{cell.mean:.3f}" + ("" if cell.deviation is None else f"{pm}{cell.deviation:.3f}")


def as_text(lines: Sequence[Sequence[str]]) -> str:
    """Return cells as aligned columns, the first to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    )


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return cells as a Markdown table."""
    heading, *rows = [[cell.strip().replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---:" for _ in heading[1:])]
    return "".join("| " + " | ".join(line) + " |\n" for line in [heading, rule, *rows])


def as_latex(lines: Sequence[Sequence[str]]) -> str:
    """Return cells as a LaTeX tabular in the style of booktabs."""
    heading, *rows = [" & ".join(_latex_cell(cell) for cell in line) + r" \\" for line in lines]
    columns = "l" + "r" * (len(lines[0]) - 1)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            heading,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_cell(cell: str) -> str:
    """Return text for LaTeX: its own characters escaped, signs in mathematical mode."""
    indented = r"\quad " if cell.startswith("  ") else ""
    escaped = re.sub(r"([_%&#])", r"\\\1", cell.strip())
    signed = re.sub(r"^-(?=\d+\.\d)", "$-$", escaped)  # a minus; a name keeps its hyphens
    return indented + signed.replace(" ± ", r" $\pm$ ").replace(">", "$>$")


def as_csv(table: Table, p_values: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return the table in full precision, a line for each metric and setting."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["metric", "setting", "mean", "standard_deviation", "seeds", "p_value"])
    for row, cells in table.items():
        for setting, cell in cells.items():
            p = p_values.get(row, {}).get(setting)
            figures = [None] * 3 if cell is None else [cell.mean, cell.deviation, cell.seeds]
            writer.writerow(["" if x is None else x for x in [row, setting, *figures, p]])
    return text.getvalue()
