"""A job on its way to a cluster: what is packed, what is refused, how it is followed."""
