"""A teacher behind an OpenAI-compatible endpoint: requests, answers, pace, money. Knows no Ray."""
