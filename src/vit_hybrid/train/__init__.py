"""Training: from labeled pictures and a recipe to a fine-tuned hybrid, on transformers' Trainer."""
