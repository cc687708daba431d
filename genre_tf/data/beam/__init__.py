"""The same examples, made with Apache Beam: the workers of any runner share reading, counting and writing."""
