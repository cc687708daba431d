"""Measured comparisons with named peers; installed as `genre_tf.benchmarks`."""
