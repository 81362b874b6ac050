"""Soft targets: from the teacher's logits to columns on the wire, and back to tensors."""
