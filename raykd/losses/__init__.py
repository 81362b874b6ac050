"""Losses over top-k and tail: pure torch, no configuration, no engine."""
