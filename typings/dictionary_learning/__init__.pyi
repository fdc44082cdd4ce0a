"""The part of dictionary_learning 0.1.0 that the benchmarks drive; it ships no strict types."""
