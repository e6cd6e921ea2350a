"""A test that skips has not been passed: only what needs another machine than this one may."""

from __future__ import annotations

from collections.abc import Generator

import pytest

ALLOWED = ("needs a GPU", "needs Linux", "needs Chromium")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return refused((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return refused((yield))


def refused(report):
    """The report, as a failure where it skips for another reason."""
    if report.skipped and not any(reason in str(report.longrepr) for reason in ALLOWED):
        report.outcome, report.longrepr = "failed", f"No test skips: mend what it lacks. {report.longrepr}"
    return report
