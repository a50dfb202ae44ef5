"""Data on disk to arrays: COCO, captions and vocabulary, norms, filtering, images, demo world."""
