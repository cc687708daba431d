"""The newsroom app: readers, events, feeds, written texts and their review, in front of a model server."""
