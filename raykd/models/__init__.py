"""Models found, loaded, cut."""
