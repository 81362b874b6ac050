"""The story of a run, and what comes before and after it."""
