"""Names of the two servables, for whoever needs no more of them than that."""

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"
