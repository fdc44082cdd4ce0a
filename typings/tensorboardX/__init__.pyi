# What we use of tensorboardX, which has no types.
