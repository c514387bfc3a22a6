"""A pytest plugin: with `CI=true` a test skipped for a missing tool has failed, and its summary says so.

A test that needs what a machine may lack skips with a reason that begins with `missing tool:`. On a
laptop that is a skip, named at the end; in CI, where everything is installed, it would hide the test.
"""

from __future__ import annotations

import os

import pytest

PREFIX = "missing tool:"


def in_ci() -> bool:
    return os.environ.get("CI") == "true"


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason of a skip without pytest's own `Skipped: ` before it."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def refuse_missing_tool(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns the skip into a failure that names the tool."""
    if in_ci() and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = reason_of(report)
        if reason.startswith(PREFIX):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, which must have every tool: {reason}"


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    outcome = yield
    refuse_missing_tool(outcome.get_result())
    return None


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_make_collect_report(collector: pytest.Collector) -> object:
    outcome = yield
    refuse_missing_tool(outcome.get_result())
    return None
