"""The data sets of captioned images by name: each in a folder of the datasets folder.

A data set in COCO's layout needs nothing but its folder. One in another layout is one new file with
a ``load`` function like that of ``coco.py``, and one line in the table below.
"""

import importlib
from pathlib import Path

from datasets_src.coco import ANNOTATION_FOLDERS
from datasets_src.splits import Split
from utils.errors import UserError

COCO = "coco"
COCO_FOLDER = "COCO"

# name of the data set -> module whose load(folder, split, with_instances=...) reads it; a folder of
# any other name is read as COCO's
DATASETS = {
    COCO: "datasets_src.coco",
    "flickr30k": "datasets_src.flickr30k",
}


def load_split(
    datasets_dir: Path, split: str, *, with_instances: bool = False, dataset: str = COCO
) -> Split:
    """Load a split of a data set with its captions and, where asked for and there, its instances.

    ``split`` is one of ``SPLITS``, whatever the data set itself calls it; ``dataset`` is a name of
    the table, or that of a folder in COCO's layout.
    """
    folder = dataset_folder(datasets_dir, dataset)
    if not folder.is_dir():
        if any((datasets_dir / name).is_dir() for name in ANNOTATION_FOLDERS):
            place = datasets_dir.resolve()
            raise UserError(
                f"{datasets_dir} is a data set itself; give --datasets_dir {place.parent} "
                f"--dataset {place.name}"
            )
        known = {name for name in DATASETS if dataset_folder(datasets_dir, name).is_dir()}
        for name in ANNOTATION_FOLDERS:
            known |= {path.parent.name for path in datasets_dir.glob(f"*/{name}")} - {COCO_FOLDER}
        others = f"give --dataset {' or '.join(sorted(known))}" if known else "name another folder"
        raise UserError(
            f"no folder {folder}, where --dataset {dataset} would be; put it there, or {others}"
        )
    module = importlib.import_module(DATASETS.get(dataset, DATASETS[COCO]))
    loaded: Split = module.load(folder, split, with_instances=with_instances)
    return loaded


def dataset_folder(datasets_dir: Path, dataset: str) -> Path:
    """Return the folder of a data set, there or not."""
    return datasets_dir / (COCO_FOLDER if dataset == COCO else dataset)
