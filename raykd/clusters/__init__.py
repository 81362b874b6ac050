"""Cluster files: what hardware they describe, and what is wrong with them. Pure reading."""
