"""Callbacks, timers, tasks, futures: no descriptor is touched."""
