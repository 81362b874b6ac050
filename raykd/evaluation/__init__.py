"""How close the student came, told to people."""
