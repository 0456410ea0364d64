"""The pages of an exported agent, every value as the text that the daemon sent."""

from __future__ import annotations

from typing import cast

from ..client import Client
from ..client._replies import ReplyFields
from ..client._requests import Reply, ask
from ..value import Value
from .raw_json import array_items, object_members


class Page(Value, kw_only=True):
    """An agent as it was when it was asked for, and some of its entries."""

    agent: str
    total: int  # entries that the agent had
    begins_at: int  # another one: the agent was compacted
    entries: list[str]
    next_sequence: int


class ExportPages:
    """Asks for an agent page by page."""

    def __init__(self, journal: Client, agent_id: str, uid: int | None) -> None:
        self.begins_at: int | None = None
        self._journal = journal
        self._fields = {"agent_id": agent_id, "uid": uid}
        self._next_sequence = 0

    def next_page(self) -> Page:
        """Return the next page."""
        request = ask("export", _page, **self._fields, from_sequence=self._next_sequence)
        page = self._journal._perform(request)  # noqa: SLF001 - the same package's engine
        self._next_sequence = page.next_sequence
        if self.begins_at is None:
            self.begins_at = page.begins_at
        return page


def _page(reply: Reply) -> Page:
    members = object_members(cast("ReplyFields", reply).line.decode())
    return Page(
        agent=members["agent"].text,
        total=reply["agent"]["entries"],
        begins_at=reply["begins_at"],
        entries=[entry.text for entry in array_items(members["entries"].text)],
        next_sequence=reply["next_sequence"],
    )
