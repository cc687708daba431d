"""From a reader to what is recommended now: the pool of the moment, search, ranking, rules."""
