"""genre_tf: generative news recommendation on TensorFlow and Keras."""

from genre_tf.environment import prepare_environment

prepare_environment()

__version__ = "0.1.0"
