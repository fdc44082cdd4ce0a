"""Activation data sets: shards on disk, their order in training, centring and scaling."""
