"""Keras models on raw strings: news encoder, two towers, ranker, writer."""

from genre_tf.lazy import offered

__all__ = ["NewsEncoder", "Ranker", "TwoTower", "Writer"]
__getattr__ = offered(
    __name__,
    {
        "NewsEncoder": "genre_tf.models.news_encoder",
        "Ranker": "genre_tf.models.ranker",
        "TwoTower": "genre_tf.models.two_tower",
        "Writer": "genre_tf.models.writer",
    },
)
