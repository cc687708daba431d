"""Reports for people: TensorBoard, and one HTML file about a run."""
