"""From a picture file to pixel values, with Pillow and NumPy."""
