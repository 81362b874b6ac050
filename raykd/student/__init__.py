"""The model that learns, and its ranks."""
