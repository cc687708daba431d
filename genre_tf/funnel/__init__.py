"""The funnel from a reader to the recommended articles: current pool, search, ranking, rules."""
