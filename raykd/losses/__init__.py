"""Losses of a student's head against every kind of soft target: pure torch, no configuration."""
