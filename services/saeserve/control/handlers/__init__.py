"""What each call does; synchronous, run in threads, and free of messages."""
