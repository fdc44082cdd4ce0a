"""The gRPC services: convert, call a handler in a thread, convert back."""
