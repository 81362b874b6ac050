"""The soft-target store: what the teacher said once is read by later epochs, runs and students."""
