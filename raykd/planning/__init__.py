"""`raykd plan`: what a job needs, where it lies, how fast it goes, what it costs. Arithmetic."""
