"""What an exported model is worth: reconstruction, density, loss recovered, contexts."""
