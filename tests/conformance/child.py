"""Runs one module of CPython's asyncio tests on noria, in a process of its own.

    python -m conformance.child MODULE REPORT [--skip FILE] [--only TEXT] [--tests DIRECTORY]

Appends to REPORT one JSON object a line: {"begin": case} before a case and {"end": case, "owner", "outcome", "why",
"seconds"} after it, and {"finished": true} at the end, so that whoever reads it knows which case was running if the
process died. A case is `Class.method`, its owner the same with the class that defines the method, which several
classes may share. FILE lists cases, owners and classes not to run; they are reported as {"left_out": case, "owner"}.
DIRECTORY is another interpreter's `test/test_asyncio` (`reference`).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import time
import traceback
import unittest
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from conformance import reference, substitution

# A case that takes longer hangs, and ends the process; the longest takes about six seconds here.
CASE_SECONDS = 60

Error = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Reporter(unittest.TestResult):
    """Writes each case's outcome when it is known."""

    def __init__(self, report: TextIO) -> None:
        super().__init__()
        self.report = report
        self.outcome = "passed"
        self.why = ""
        self.began = 0.0

    def say(self, **line: Any) -> None:
        """Append a line to the report."""
        print(json.dumps(line), file=self.report, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome, self.why = "passed", ""
        self.began = time.monotonic()
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        self.say(begin=case_of(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        seconds = round(time.monotonic() - self.began, 3)
        self.say(end=case_of(test), owner=owner_of(test), outcome=self.outcome, why=self.why, seconds=seconds)
        super().stopTest(test)

    def failed(self, test: unittest.TestCase, error: Error) -> None:
        """Note a failure; the first says what is wrong, later ones (tearDown's) follow from it."""
        text = "".join(traceback.format_exception(*error))
        if not hasattr(test, "_testMethodName"):  # setUpClass or setUpModule
            self.say(end=str(test), owner=str(test), outcome="failed", why=text, seconds=0)
        elif self.outcome != "failed":
            self.outcome, self.why = "failed", text

    def addError(self, test: unittest.TestCase, err: Error) -> None:
        self.failed(test, err)

    def addFailure(self, test: unittest.TestCase, err: Error) -> None:
        self.failed(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Error | None) -> None:
        if err is not None:
            self.failed(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        if self.outcome == "passed":
            self.outcome, self.why = "skipped", reason

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.outcome, self.why = "failed", "passed, though CPython expects it to fail"


def case_of(test: unittest.TestCase) -> str:
    """Class.method."""
    return f"{type(test).__name__}.{test._testMethodName}"


def owner_of(test: unittest.TestCase) -> str:
    """Class.method with the class that defines the method."""
    method: str = test._testMethodName
    for cls in type(test).__mro__:
        if method in vars(cls):
            return f"{cls.__name__}.{method}"
    return case_of(test)


def names_of(test: unittest.TestCase) -> set[str]:
    """What a case can be called in the list of those not to run."""
    return {case_of(test), owner_of(test), *(cls.__name__ for cls in type(test).__mro__)}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("report", type=Path)
    parser.add_argument("--skip", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--tests", type=Path)
    options = parser.parse_args()
    if options.tests:
        reference.open_tests(options.tests)
    skip = set(options.skip.read_text().split()) if options.skip else set()

    with options.report.open("a") as report:
        reporter = Reporter(report)
        suite = unittest.TestSuite()
        for _, cls in sorted(substitution.load(options.module).items()):
            chosen = unittest.TestSuite()
            for test in unittest.TestLoader().loadTestsFromTestCase(cls):
                assert isinstance(test, unittest.TestCase)
                if names_of(test) & skip:
                    reporter.say(
                        left_out=case_of(test), owner=owner_of(test), names=sorted(names_of(test) & skip)
                    )
                elif options.only in case_of(test):
                    chosen.addTest(test)
            suite.addTest(chosen)
        suite.run(reporter)
        reporter.say(finished=True)


if __name__ == "__main__":
    main()
