"""The exported model: folding, its maths and its files."""
