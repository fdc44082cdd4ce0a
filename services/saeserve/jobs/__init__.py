"""The job record: states, store commits (the ledger), the Redis index, the reconciler."""
