"""The seam to engines, and the device threads behind it."""
