"""The worker: takes leased jobs, runs each in a process of its own, commits what came of it."""
