"""Cases for the tests of the harness itself: one passes, one fails, one ends its process."""

from __future__ import annotations

import os
import resource
import unittest


class Sample(unittest.TestCase):
    def test_a_dies(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()

    def test_b_fails(self) -> None:
        self.fail("as it should")

    def test_c_passes(self) -> None:
        pass
