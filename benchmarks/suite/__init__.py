"""What is timed: cases, the work of each, and the check of its result."""
