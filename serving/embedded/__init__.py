"""A small stand-in for TensorFlow Serving, in Python: for laptops and tests."""
