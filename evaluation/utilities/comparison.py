"""Models side by side, from the results that their evaluations wrote."""

from evaluation.comparison import compare_models

__all__ = ["compare_models"]
