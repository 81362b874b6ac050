"""Schemas that come with raykd: see README.md beside this file."""
