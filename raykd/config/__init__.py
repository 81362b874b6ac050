"""What a job file may say, checked."""
