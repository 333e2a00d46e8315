"""Waiting on each other: sleeping, timeouts, groups of tasks, locks, queues. Stands on the core alone."""
