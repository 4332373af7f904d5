"""The model family, as transformers knows it."""
