"""The model that knows, as a service."""
