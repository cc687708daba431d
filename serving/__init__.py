"""Asking and answering: client, embedded server, TensorFlow Serving's configuration."""
