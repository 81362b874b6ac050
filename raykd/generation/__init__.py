"""Text that a teacher writes: asked for, kept, judged, chosen."""
