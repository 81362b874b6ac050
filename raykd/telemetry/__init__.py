"""What is measured while a run goes on: its file, its sums, what a person sees, other trackers."""
