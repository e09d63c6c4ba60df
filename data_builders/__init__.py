"""TFDS builders for chest X-ray datasets, one folder each; no TensorFlow is needed."""
