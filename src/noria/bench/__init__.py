"""`noria bench`: every installed event loop side by side on the same programs.

A row is one workload, in a file of its own under `rows/`. Each measurement runs in a process of its own: one loop, one
row, one round. Rounds are interleaved, and the loop that goes first changes each round, so that a machine that slows
down does so for every loop. The process under test has one core to itself and the load another one, where there are
two.

Nothing here is imported by the rest of noria, and what runs in the process under test imports nothing of noria unless
noria is what is measured (child.py).
"""
