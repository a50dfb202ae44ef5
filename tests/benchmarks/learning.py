"""Repeats the learning tables of the README here: trains variants over seeds, prints mean ± spread.

    python -m tests.benchmarks.learning --datasets_dir DIR --out DIR [--variants lstm ...]
        [--seeds 0 1 2] [--images demo|real]

Every run is a call of ``main.py`` in a process of its own, on one CPU thread. Finished runs are
kept in ``--out`` and not repeated, so that an interrupted measurement goes on with the same call.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from evaluation.comparison import (
    ModelResults,
    as_markdown,
    comparison_table,
    mean_over_seeds,
    read_results,
    table_cells,
)
from evaluation.reports import read_history

ROOT = Path(__file__).parent.parent.parent

# what all variants share, by kind of data
PROTOCOLS = {
    "real": [
        "--use_all_images", "--visual_encoder=resnet18", "--visual_learning_rate=1e-3",
        "--image_size=64", "--batch_size=50", "--epochs=15", "--group_captions", "--flip_images",
        "--fine_maps", "--precision=bf16",
    ],
    "demo": ["--config=models_src/configs/demo.yaml"],
}  # fmt: skip

# variant -> options beside the protocol's
VARIANTS = {
    "lstm": [],
    "control": ["--random_start_steps=1000000"],
    "lstm_no_random_start": ["--random_start_steps=0"],
    "gru": ["--text_encoder=gru"],
    "generative": [
        "--text_encoder=generative", "--text_threshold=0.08", "--random_start_steps=0",
    ],
}  # fmt: skip
TEXT_ONLY = "text_only"  # words clustered by co-occurrence

# beside the program's METRICS: label -> figure in the results, or of the last epoch of training
MORE_FIGURES = {
    "clusters/image": "activation.clusters_per_image",
    "clusters/caption": "activation.clusters_per_caption",
    "alive image clusters": "alive_image_clusters",
    "alive caption clusters": "alive_caption_clusters",
    "images without": "images_without_cluster",
    "captions without": "captions_without_cluster",
    "agreement": "agreement",
}


def measure(out: Path, datasets_dir: Path, kind: str, variant: str, seed: int) -> ModelResults:
    """Train and evaluate one variant with one seed, as far as that is not done."""
    name = f"{kind}_{variant}_{seed}"
    results = out / "results"

    def call(made: Path, *arguments: str) -> None:
        """Run ``main.py`` unless the file is there; its output goes to the end of ``log.txt``."""
        if made.exists():
            return
        words = [f"--datasets_dir={datasets_dir}", f"--models_dir={out / 'models'}"]
        words += [f"--results_dir={results}", f"--model_name={name}", *arguments]
        with (out / "log.txt").open("a") as log:
            subprocess.run(
                [sys.executable, "main.py", *words],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
                stdout=log,
                stderr=log,
                check=True,
            )

    everything = ["--use_all_images"] if kind == "real" else []
    if variant == TEXT_ONLY:
        utility = "train_text_only_baseline"
        options = ["--baseline_cluster_num=100", f"--seed={seed}", "--overwrite", *everything]
        call(results / f"{utility}_{name}.json", f"--utility={utility}", *options)
        return read_results(results, name)
    options = [*PROTOCOLS[kind], *VARIANTS[variant], f"--seed={seed}"]
    options += ["--workers=0", "--device=cpu", "--resume"]
    call(out / "models" / "text" / f"{name}.cfg", *options)
    for utility in ("text_evaluation", "visual_evaluation"):
        call(results / f"{utility}_{name}.json", f"--utility={utility}", *everything)
    last_epoch = read_history(results / name / "evaluation_by_epoch.csv")[-1]
    found = read_results(results, name)
    return replace(found, metrics=last_epoch | found.metrics)


def main() -> None:
    """Measure what the options name and print a Markdown table, a column for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets_dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--images", choices=tuple(PROTOCOLS), default="real")
    parser.add_argument("--variants", nargs="+", choices=(*VARIANTS, TEXT_ONLY), required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    out, datasets_dir = options.out.resolve(), options.datasets_dir.resolve()
    models = [
        measure(out, datasets_dir, options.images, variant, seed)
        for variant, seed in product(options.variants, options.seeds)
    ]
    more = [
        (label, model.setting, model.metrics.get(name))
        for (label, name), model in product(MORE_FIGURES.items(), models)
    ]
    figures = pd.DataFrame(more, columns=["metric", "setting", "value"])
    measured = figures.groupby("metric")["value"].transform("count") > 0
    table = pd.concat([comparison_table(models), mean_over_seeds(figures[measured])])
    print(as_markdown(table_cells(table)), end="")


if __name__ == "__main__":
    main()
