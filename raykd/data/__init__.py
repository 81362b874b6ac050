"""From text to rows in order."""
