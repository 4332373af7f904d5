"""Pictures in, something out: the one way from sources to labels, logits or features."""
