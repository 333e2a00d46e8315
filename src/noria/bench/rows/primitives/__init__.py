"""Queues, locks and their kin between tasks."""
