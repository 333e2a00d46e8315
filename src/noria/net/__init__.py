"""Transports, servers and the sock_* calls, over io."""
