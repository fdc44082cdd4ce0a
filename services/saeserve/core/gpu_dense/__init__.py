"""Triton kernels of the dense steps: JumpReLU's, ReLU's and gated SAEs'.

Which side of a level each pre-activation is on, after a product in low precision, and what the
levels' gradients need; `core.gpu` has what they stand on. See docs/KERNELS.md, "On a GPU".
"""
