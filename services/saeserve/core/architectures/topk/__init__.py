"""The TopK family: each architecture's loss, and the fast form that they share."""
