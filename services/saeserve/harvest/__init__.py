"""Language models: text in, activations out, and reconstructions spliced in."""
