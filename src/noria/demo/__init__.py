"""`noria demo`: the tutorial's five downloads, done three ways on noria, timed and explained.

`pdf` makes the files, `server` serves them on loopback with the delays of a distant server, `ways` holds the
three downloaders, `heartbeat` measures how long the loop stood still and in whose code, `command` runs and
prints. Needs the packages of the extra `noria[get]`, save for `pdf`, which needs nothing.
"""
