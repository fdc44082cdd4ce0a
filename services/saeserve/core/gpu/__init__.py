"""Kernels for NVIDIA GPUs, in Triton: docs/KERNELS.md, "On a GPU".

Only `device`, `expected`, `launch` and `shadows` can be imported where Triton is not installed;
others are imported once `device` has said that they can run.
"""
