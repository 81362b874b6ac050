"""raykd turns one job file into a distilled model."""

__version__ = "0.1.0"
