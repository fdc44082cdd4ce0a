"""JumpReLU's step by the few entries of [B, F] that differ from the rest; `entry_lists` is the
start.

Shape suffixes: B rows, R rows of a block, F latents, D d_in, O d_out, N listed entries.
"""
