"""What the documents on disk say: manifests of data sets, configurations of models."""
