"""What people do with servers: versions, labels, server files, pruning, deployment, load."""
