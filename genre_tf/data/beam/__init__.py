"""The same examples with Apache Beam: reading, counting and writing spread over the workers of any runner."""
