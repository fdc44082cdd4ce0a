"""The other libraries behind one small interface; they are installed in .venv-peers alone."""
