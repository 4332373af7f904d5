"""From logits to what is said of a picture, and how good that is."""
