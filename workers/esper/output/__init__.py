"""What a run leaves behind: events, summary, TensorBoard files, the report, and what the user sees meanwhile.

Nothing here decides anything, and nothing here imports torch but ``esper.output.board``.
"""

from __future__ import annotations

from esper.output.events import EVENTS_FILE, EventLog, Kind, read_events
from esper.output.summary import SUMMARY_FILE, Control, Score, SplitResult, Summary, read_summary
from esper.output.ui import Progress, Silent, choose

__all__ = [
    "EVENTS_FILE",
    "SUMMARY_FILE",
    "Control",
    "EventLog",
    "Kind",
    "Progress",
    "Score",
    "Silent",
    "SplitResult",
    "Summary",
    "choose",
    "read_events",
    "read_summary",
]
