"""Completion for ``kubectl esper``: kubectl runs ``kubectl_complete-esper`` with the words so far.

Answers are lines, each a word and what it means behind a tab, then a line with a colon and a number; 4 says that files
are no answer. Put nothing else on the PATH: kubectl finds the program by its name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from esper_operator.kubectl.words import plain

NO_FILES = ":4"
WITH_RUN = frozenset({"status", "why", "seeds", "logs", "suspend", "resume"})
FORMS = ("json", "text", "yaml")
TAKES_VALUE = frozenset({"-n", "--namespace", "-o", "--output", "--kubeconfig", "--context", "--rank", "--tail"})


def candidates(
    words: Sequence[str], commands: Iterable[tuple[str, str]], runs: Callable[[str | None], Iterable[tuple[str, str]]]
) -> list[tuple[str, str]]:
    """What the last of ``words`` may become, with what it means.

    Args:
        words: after ``kubectl esper``; the last is the one being typed, possibly empty.
        commands: names and what they do.
        runs: names and phases of the runs of a namespace; of the context's own for None.
    """
    *before, typed = words or [""]
    given = _named(before)
    if before and before[-1] in ("-o", "--output"):
        found: Iterable[tuple[str, str]] = ((form, "") for form in FORMS)
    elif before and before[-1] in TAKES_VALUE:
        found = ()
    elif not given:
        found = commands
    elif len(given) == 1 and given[0] in WITH_RUN:
        found = runs(_namespace(before))
    else:
        found = ()
    return sorted((word, about) for word, about in found if word.startswith(typed))


def _named(words: Sequence[str]) -> list[str]:
    """Words that are neither options nor their values."""
    return [
        word for at, word in enumerate(words) if not word.startswith("-") and not (at and words[at - 1] in TAKES_VALUE)
    ]


def _namespace(words: Sequence[str]) -> str | None:
    for option in ("-n", "--namespace"):
        if option in words[:-1]:
            return words[words.index(option) + 1]
    return next((word.partition("=")[2] for word in words if word.startswith("--namespace=")), None)


def main() -> None:
    """Answer kubectl; a cluster that does not answer has no runs to offer."""
    from esper_operator.cluster.reading import NotAllowed, NotThere, Reader, Unreachable
    from esper_operator.kubectl.app import app
    from esper_operator.kubectl.found import Found

    def runs(namespace: str | None) -> list[tuple[str, str]]:
        try:
            reader = Reader()
            found = [Found(each) for each in reader.runs(namespace or reader.namespace)]
        except (Unreachable, NotAllowed, NotThere) as error:
            print(f"no runs to offer: {error}", file=sys.stderr)
            return []
        return [(each.name, each.phase) for each in found]

    commands = [
        (command.callback.__name__, (command.callback.__doc__ or "").partition("\n")[0])
        for command in app.registered_commands
        if command.callback is not None
    ]
    for word, about in candidates(sys.argv[1:], commands, runs):
        print(f"{word}\t{plain(about)}" if about else word)
    print(NO_FILES)
