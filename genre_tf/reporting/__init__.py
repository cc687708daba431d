"""What people look at: TensorBoard, and one HTML file that tells of a run."""
