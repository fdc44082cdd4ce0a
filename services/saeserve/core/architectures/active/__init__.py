"""The TopK family's step with active latents alone, in plain torch: for devices without kernels."""
