"""An agent's life: every state with every change."""

from __future__ import annotations

import pytest

from agent_journal.errors import AgentFinishedError
from agent_journal.lifecycle import TRANSITIONS, Change, advance, is_terminal
from agent_journal.model import TERMINAL, UNFINISHED, AgentState

RUNNING, COMPLETED, FAILED = AgentState.RUNNING, AgentState.COMPLETED, AgentState.FAILED

LEADS_TO = {
    (RUNNING, Change.RECORDED): RUNNING,
    (RUNNING, Change.COMPLETED): COMPLETED,
    (RUNNING, Change.FAILED): FAILED,
}


@pytest.mark.parametrize("change", list(Change))
@pytest.mark.parametrize("state", list(TRANSITIONS))
def test_every_state_with_every_change(state: AgentState, change: Change) -> None:
    """A running agent records, completes or fails; one that has ended takes nothing more."""
    leads_to = LEADS_TO.get((state, change))
    if leads_to is not None:
        assert advance(state, change) is leads_to
        return
    with pytest.raises(AgentFinishedError) as refused:
        advance(state, change)
    assert refused.value.details == {"state": state.value}
    assert state.value in refused.value.message
    assert "compact" in refused.value.message


def test_nothing_leads_out_of_a_terminal_state() -> None:
    for state, leads_to in TRANSITIONS.items():
        assert is_terminal(state) == (not leads_to)
        assert set(leads_to.values()) <= set(TRANSITIONS)


def test_every_state_is_unfinished_or_terminal() -> None:
    assert set(AgentState) == UNFINISHED | TERMINAL
    assert not UNFINISHED & TERMINAL
    assert [state for state in AgentState if is_terminal(state)] == [
        AgentState.COMPLETED,
        AgentState.FAILED,
        AgentState.CANCELLED,
    ]
