"""``report.html``: one self-contained page that tells what a run did, readable offline and without scripts."""

from __future__ import annotations

from esper.output.report.page import REPORT_FILE, render, write_report

__all__ = ["REPORT_FILE", "render", "write_report"]
