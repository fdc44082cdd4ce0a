"""`make demo`: the whole main job on a real language model, as a client of the real services."""
