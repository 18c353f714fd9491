"""The doors themselves: without a policy a request goes through as it is."""

from __future__ import annotations


def test_a_door_leads_to_its_service(door):
    answer = door.ask("/a%2Fb?c")
    assert (answer.status, answer.body) == (200, door.seen("/a%2Fb?c"))
    assert door.service.targets == [door.seen("/a%2Fb?c")]
    assert door.statuses(5) == [200] * 5
