"""Exported models: how they are made, what they say of themselves, and where converted ones are kept."""
