"""Baselines of words: what text alone, or other models' word vectors, know without the images."""
