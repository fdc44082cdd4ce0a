"""Serves exported models: raw activations in, sparse features out, and back."""
