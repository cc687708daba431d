"""Names of servables and signatures, for whoever needs no more of them than that."""

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"
COUNTED = ("recommend", "recommend_live", "recommend_text", "serving_default")
"""Signatures of the recommender that answer by the counters of its index; all others know none of them."""
