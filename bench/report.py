"""Medians, ratios and verdicts of what was measured, as Markdown tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from measures import CPU, Measured
from peers import OURS, PEERS
from scenarios import Scenario, Target


@dataclass
class Results:
    """All rounds of one scenario: by peer, in the order in which they were measured."""

    scenario: Scenario
    rounds: dict[str, list[Measured]] = field(default_factory=dict)
    note: str = ""

    def clean(self, peer: str) -> list[Measured]:
        """The rounds of this peer in which nothing went wrong: only these make figures."""
        return [one for one in self.rounds.get(peer, []) if not one.errors]

    def median(self, peer: str, column: str = "") -> float | None:
        """The median of the figure or of a column; None if no round was clean."""
        values = [one.columns[column] if column else one.figure for one in self.clean(peer)]
        return statistics.median(values) if values else None

    def ratio(self, peer: str) -> float | None:
        """Our median in units of this peer's."""
        ours, theirs = self.median(OURS), self.median(peer)
        return ours / theirs if ours is not None and theirs else None

    def part(self, peer: str, of: str, column: str = "") -> float | None:
        """The median of what this peer's figure, or a column, is of another's in the same round."""
        both = zip(self.rounds.get(peer, []), self.rounds.get(of, []), strict=False)
        clean = [(one, other) for one, other in both if not (one.errors or other.errors)]
        parts = [_value(one, column) / (_value(other, column) or 1) for one, other in clean]
        return statistics.median(parts) if parts else None

    def verdict(self, target: Target) -> str:
        """What is asked, and whether it is so; a round of ours with errors never meets a target."""
        name = f"{target.column}: " if target.column else ""
        if target.of:
            name = f"{name}of {PEERS[target.against].title.rpartition(', ')[2]} " if target.against else name
        subject = target.of or OURS
        if target.of and target.against:
            value = self.part(target.of, target.against)
        else:
            value = self.ratio(target.against) if target.against else self.median(subject, target.column)
        if value is None:
            return f"{name}{target}: NOT MEASURED"
        if len(self.clean(subject)) < len(self.rounds[subject]):
            return f"{name}{target}: NOT MET, errors"
        return f"{name}{target}: {'met' if target.is_met(value) else 'NOT MET'}"


def _value(one: Measured, column: str) -> float:
    return one.columns.get(column, 0.0) if column else one.figure


def as_json(results: dict[str, Results], about: dict[str, str]) -> dict[str, Any]:
    """Every round, the medians and the verdicts."""
    return {
        "about": about,
        "scenarios": {
            name: {
                "title": one.scenario.title,
                "unit": one.scenario.unit,
                "note": one.note,
                "medians": {peer: one.median(peer) for peer in one.rounds},
                "ours_against": {peer: one.ratio(peer) for peer in one.rounds},
                "targets": {_subject(target): one.verdict(target) for target in _asked(one)},
                "rounds": {peer: [asdict(each) for each in rounds] for peer, rounds in one.rounds.items()},
            }
            for name, one in results.items()
        },
    }


def _subject(target: Target) -> str:
    name = target.against or target.column or "figure"
    return f"{target.of} of {name}" if target.of else name


def _asked(results: Results) -> list[Target]:
    """The targets that this run can speak of: we were in it, and who they are against."""
    return [
        target
        for target in results.scenario.targets
        if (target.of or OURS) in results.rounds and (not target.against or target.against in results.rounds)
    ]


def as_markdown(results: dict[str, Results], about: dict[str, str]) -> str:
    """One table for each scenario, under a list of what it was measured with."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in about.items())]
    for one in results.values():
        parts.append(f"## {one.scenario.title}" + (f"\n\n{one.note}" if one.note else ""))
        parts.append(_table(one))
    return "\n\n".join(parts) + "\n"


def _table(results: Results) -> str:
    columns = list(
        dict.fromkeys(name for rounds in results.rounds.values() for each in rounds for name in each.columns)
    )
    without = any(PEERS[peer].beside in results.rounds for peer in results.rounds)
    compared = ["it / without", "the same in CPU"] if without else []
    compared += ["ours / it"] if OURS in results.rounds else []
    rows = [["proxy", results.scenario.unit, "from - to", *compared, "target", *columns, "errors"]]
    for peer in PEERS:
        if peer in results.rounds:
            rows.append(_row(results, peer, compared, columns))
    # The last column is as wide as it must be: an error can be long.
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]) - 1)] + [
        len(rows[0][-1])
    ]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row(results: Results, peer: str, compared: Sequence[str], columns: Sequence[str]) -> list[str]:
    decimals = results.scenario.decimals
    figures = [one.figure for one in results.clean(peer)]
    span = f"{_shown(min(figures), decimals)} - {_shown(max(figures), decimals)}" if figures else "-"
    # A target stands beside the peer it is against, or beside us.
    targets = [
        results.verdict(target) for target in _asked(results) if (target.of or target.against or OURS) == peer
    ]
    beside = PEERS[peer].beside
    ratios = {
        "it / without": _shown(results.part(peer, beside), 2) if beside in results.rounds else "",
        "the same in CPU": _shown(results.part(peer, beside, CPU), 2) if beside in results.rounds else "",
        "ours / it": _shown(results.ratio(peer), 2) if peer != OURS else "",
    }
    return [
        PEERS[peer].title,
        _shown(results.median(peer), decimals),
        span,
        *(ratios[name] for name in compared),
        "; ".join(targets),
        *(_shown(results.median(peer, column), 2) for column in columns),
        _errors(results.rounds[peer]),
    ]


def _shown(value: float | None, decimals: int) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.{decimals}f}"


def _errors(rounds: list[Measured]) -> str:
    """What went wrong, and in how many rounds."""
    bad = [one for one in rounds if one.errors]
    if not bad:
        return ""
    # A bar would end the cell.
    text = "; ".join(dict.fromkeys(error for one in bad for error in one.errors)).replace("|", "/")
    return f"{len(bad)} of {len(rounds)} rounds: {' '.join(text.split())[:300]}"
