"""Weights of the two other code bases: the authors' JAX files (`checkpoints.jax`) and timm's (`checkpoints.timm`).

Both modules have `load`, which returns a `ViTHybridForImageClassification` whose configuration carries the source's
numerics, `save`, which writes a file that the other code reads, and `image_processor`. Importing this package imports
neither of them.
"""
