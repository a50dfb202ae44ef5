"""One module per metric: pure functions over arrays; evaluators, demonstrations, reports."""
