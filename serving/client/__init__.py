"""The client of a running server: grpc, numpy and protobuf, no TensorFlow."""
