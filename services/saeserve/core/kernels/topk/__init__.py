"""The loops of the TopK family's compiled step: see `architectures.topk.fast`."""
