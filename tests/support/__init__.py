"""What the tests share: outside programs, a real nginx, a slow server, throw-away certificates."""
