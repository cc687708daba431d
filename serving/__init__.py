"""Client, embedded server and configuration of TensorFlow Serving."""
