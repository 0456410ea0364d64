"""An agent's life: every state with every change, written out a second time."""

from __future__ import annotations

import pytest

from agent_journal.errors import (
    AgentFinishedError,
    AgentUnfinishedError,
    JournalError,
    ParkedError,
)
from agent_journal.lifecycle import TRANSITIONS, Change, advance, is_terminal, leads_to
from agent_journal.model import TERMINAL, UNFINISHED, AgentState

# A row for each state; a column for each change, in the order of ``Change``:
# RECORDED COMPLETED FAILED ATTACHED DETACHED LOST LAUNCHED TOLD PARKED, unparked: plain HELD NEW,
# CANCELLED.  A dot: it can't happen there.
TABLE = """
running      running   completed failed running waiting interrupted .        running     parked .           .       .       cancelled
waiting      running   completed failed running .       .           resuming waiting     parked .           .       .       cancelled
interrupted  .         .         .      running .       .           resuming interrupted parked .           .       .       cancelled
resuming     .         .         .      running .       interrupted .        resuming    parked .           .       .       cancelled
parked       .         .         .      .       .       parked      .        parked      .      interrupted running waiting cancelled
completed    .         .         .      .       .       .           .        .           .      .           .       .       .
failed       .         .         .      .       .       .           .        .           .      .           .       .       .
cancelled    .         .         .      .       .       .           .        .           .      .           .       .       .
"""  # noqa: E501 - a table
LEADS_TO = {
    (AgentState(state), change): None if after == "." else AgentState(after)
    for state, *row in map(str.split, TABLE.strip().splitlines())
    for change, after in zip(Change, row, strict=True)
}


def test_the_table_has_every_state() -> None:
    assert set(TRANSITIONS) == set(AgentState)
    assert LEADS_TO.keys() == {(state, change) for state in AgentState for change in Change}


@pytest.mark.parametrize("change", list(Change))
@pytest.mark.parametrize("state", list(AgentState))
def test_every_state_with_every_change(state: AgentState, change: Change) -> None:
    after = LEADS_TO[state, change]
    assert leads_to(state, change) is after
    if after is not None:
        assert advance(state, change, "a") is after
        return
    with pytest.raises(JournalError) as refused:
        advance(state, change, "a")
    if is_terminal(state):
        assert type(refused.value) is AgentFinishedError
        assert "compact" in refused.value.message
    elif state is AgentState.PARKED:
        assert type(refused.value) is ParkedError
        assert "resume" in refused.value.message
        return
    else:
        assert type(refused.value) is AgentUnfinishedError
    assert refused.value.details == {"state": state.value}
    assert state.value in refused.value.message


def test_nothing_leads_out_of_a_terminal_state() -> None:
    for state, leads in TRANSITIONS.items():
        assert is_terminal(state) == (not leads)


def test_every_state_is_reached() -> None:
    """But running, which an agent's first entry or attach leads to as well."""
    assert {after for leads in TRANSITIONS.values() for after in leads.values()} == set(AgentState)


def test_every_unfinished_agent_can_be_cancelled_and_told() -> None:
    for state in UNFINISHED:
        assert TRANSITIONS[state][Change.CANCELLED] is AgentState.CANCELLED
        assert TRANSITIONS[state][Change.TOLD] is state


def test_every_state_is_unfinished_or_terminal() -> None:
    assert set(AgentState) == UNFINISHED | TERMINAL
    assert not UNFINISHED & TERMINAL
    assert [state for state in AgentState if is_terminal(state)] == [
        AgentState.COMPLETED,
        AgentState.FAILED,
        AgentState.CANCELLED,
    ]
