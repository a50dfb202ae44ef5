"""Data on disk to arrays: data sets, captions and vocabulary, norms, filtering, demo world."""
