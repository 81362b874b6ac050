"""Soft targets: from the teacher's outputs to columns on the wire, and back to tensors."""
