"""Real libraries, and child processes."""
