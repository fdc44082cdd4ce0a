"""JumpReLU: its loss, its penalties, and its fast form."""
