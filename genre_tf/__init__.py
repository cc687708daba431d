"""genre_tf: generative news recommendation on TensorFlow and Keras."""

from genre_tf.environment import prepare_environment
from genre_tf.lazy import offered

prepare_environment()

__version__ = "0.1.0"
__all__ = ["data", "export", "losses", "metrics", "models", "serving"]
__getattr__ = offered(__name__, {name: f"genre_tf.{name}" for name in __all__})
