"""Models to repositories of the Hugging Face Hub, and from there."""
