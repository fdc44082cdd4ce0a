"""The control service: jobs, data sets and models over gRPC, and the reconciler."""
