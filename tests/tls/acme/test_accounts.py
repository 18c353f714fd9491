"""Accounts at real pebbles, kept in the stores that there are."""

from __future__ import annotations

import json
import pathlib
import sqlite3
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import globalLogPublisher

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.store import Vault, open_sqlite
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.acme.accounts import Accounts
from onebackend_proxy.tls.acme.client import trust_roots
from onebackend_proxy.tls.acme.problems import Problem, Unreachable

from .pebbles import PebbleCase, reactor
from .test_client import EAB_KEY, OTHER_KEY


class AccountsCase(PebbleCase):
    def setUp(self):
        self.events: list[Any] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.store: Any = self.new_store()

    def new_store(self) -> Any:
        return MemoryStore()

    def accounts(self, store=None, **more):
        """As another process would make them that shares the store."""
        trust = trust_roots(self.pebble.ca_file)
        made = Accounts(store or self.store, reactor, trust=trust, timeout=5.0, **more)
        self.addCleanup(made.close)
        return made

    async def opened(self, **more):
        return await self.accounts(**more).client(self.pebble.directory)

    def registrations(self):
        """How many accounts pebble has been asked for."""
        return self.pebble.log().count("POST /sign-me-up -> calling handler()")

    def accounts_made(self):
        """How many accounts pebble has made."""
        return self.pebble.log().count("accounts in memory")

    async def contact(self, client):
        return json.loads((await client._ask(client.account)).body).get("contact")


if TYPE_CHECKING:
    _Case = AccountsCase
else:
    # Its tests run in the classes of each store only.
    _Case = object


class Contract(_Case):
    """What holds in every store."""

    async def test_it_survives(self):
        first = await self.opened()
        asked = self.pebble.log().count("POST ")
        second = await self.opened()
        self.assertIsNot(first, second)
        self.assertEqual(second.account, first.account)
        self.assertEqual(second.key.private_numbers(), first.key.private_numbers())
        self.assertEqual(self.pebble.log().count("POST "), asked, "something was asked for again")
        self.assertEqual((await second.order(("a.example",))).status, "pending")

    async def test_two_processes_make_one(self):
        before = self.accounts_made()
        clients = await gatherResults(
            [self.accounts().client(self.pebble.directory) for _ in range(2)], consumeErrors=True
        )
        self.assertEqual(clients[0].account, clients[1].account)
        self.assertEqual(self.accounts_made(), before + 1)

    async def test_a_contact_that_has_changed(self):
        await self.opened()
        await self.opened(contact=("mailto:ada@a.example",))
        client = await self.opened(contact=("mailto:ada@a.example",))
        self.assertEqual(await self.contact(client), ["mailto:ada@a.example"])
        client = await self.opened(contact=("mailto:bob@a.example",))
        self.assertEqual(await self.contact(client), ["mailto:bob@a.example"])
        self.assertFalse(await self.contact(await self.opened()))

    async def test_forgotten_by_the_directory(self):
        accounts = self.accounts(contact=("mailto:ada@a.example",))
        client = await accounts.client(self.pebble.directory)
        key = client.key.private_numbers()
        self.pebble.stop()
        self.pebble.start()
        orders = await gatherResults(
            [Deferred.fromCoroutine(client.order((f"b{number}.example",))) for number in range(3)]
        )
        self.assertEqual([order.status for order in orders], ["pending"] * 3)
        again = await self.opened(contact=("mailto:ada@a.example",))
        self.assertEqual(again.account, client.account)
        self.assertEqual(again.key.private_numbers(), key)

    async def test_forgotten_while_nobody_looked(self):
        await self.opened()
        self.pebble.stop()
        self.pebble.start()
        # What is asked first is to change the contact.
        client = await self.opened(contact=("mailto:ada@a.example",))
        self.assertEqual(await self.contact(client), ["mailto:ada@a.example"])


class MemoryAccountsTests(Contract, AccountsCase):
    async def test_who_waits_waits_together(self):
        accounts = self.accounts()
        asked = self.registrations()
        waiting = [accounts.client(self.pebble.directory) for _ in range(20)]
        # With three nonces of ten refused, one registration may be several requests.
        clients = await gatherResults(waiting)
        self.assertEqual(len(set(map(id, clients))), 1)
        self.assertLess(self.registrations() - asked, 20)
        self.assertIs(await accounts.client(self.pebble.directory), clients[0])

    async def test_who_cancels_holds_up_nobody(self):
        accounts = self.accounts()
        first, second = (accounts.client(self.pebble.directory) for _ in range(2))
        first.cancel()
        await self.refused(first, CancelledError)
        self.assertTrue((await second).account)

    async def test_when_all_have_cancelled(self):
        accounts = self.accounts()
        waiting = [accounts.client(self.pebble.directory) for _ in range(2)]
        for each in waiting:
            each.cancel()
            await self.refused(each, CancelledError)
        self.assertEqual(repr(accounts), "<Accounts: 0 ready, 0 under way>")
        self.assertTrue((await accounts.client(self.pebble.directory)).account)

    async def test_a_store_that_fails(self):
        self.store.failure = StoreUnavailable("locked")
        accounts = self.accounts()
        await self.refused(accounts.client(self.pebble.directory), StoreUnavailable)
        self.store.failure = None
        self.assertTrue((await accounts.client(self.pebble.directory)).account)

    async def test_a_directory_that_is_down(self):
        accounts = self.accounts()
        self.pebble.stop()
        try:
            await self.refused(accounts.client(self.pebble.directory), Unreachable)
        finally:
            self.pebble.start()
        self.assertTrue((await accounts.client(self.pebble.directory)).account)

    async def test_down_while_the_contact_changes(self):
        await self.opened()
        self.pebble.stop()
        try:
            # It is ready all the same; an order will tell.
            self.assertTrue((await self.opened(contact=("mailto:ada@a.example",))).account)
        finally:
            self.pebble.start()
        self.assertIn("keeps the contact", str(self.events))

    async def test_a_contact_that_it_does_not_take(self):
        client = await self.opened()
        again = await self.opened(contact=("tel:+1",))
        self.assertEqual(again.account, client.account)
        # Without an account there is nothing to go on with.
        accounts = self.accounts(MemoryStore(), contact=("tel:+1",))
        await self.refused(accounts.client(self.pebble.directory), Problem)

    async def test_each_directory_has_an_account_and_a_key(self):
        accounts = self.accounts()
        first = await accounts.client(self.pebble.directory)
        second = await accounts.client(self.pebble.directory.replace("localhost", "127.0.0.1"))
        self.assertNotEqual(first.key.private_numbers(), second.key.private_numbers())
        self.assertNotEqual(first.account, second.account)
        names = set(self.store._secrets)
        self.assertEqual(len(names), 4)
        self.assertNotIn("localhost", str(names))

    async def test_no_binding_for_a_directory_that_wants_none(self):
        client = await self.opened(eab_kid="kid-1", eab_hmac_key=EAB_KEY)
        self.assertTrue(client.account)
        self.assertNotIn("onlyReturnExisting", self.pebble.log())

    async def test_it_closes_while_it_waits(self):
        accounts = self.accounts()
        waiting = accounts.client(self.pebble.directory)
        await accounts.close()
        await self.refused(waiting, CancelledError)


class SqliteAccountsTests(Contract, AccountsCase):
    def new_store(self):
        self.folder = pathlib.Path(self.mktemp())
        self.folder.mkdir(parents=True)
        return self.open()

    def open(self):
        store = open_sqlite(self.folder / "proxy.sqlite", Vault("a key"), reactor)
        self.addCleanup(store.close)
        return store

    def accounts(self, store=None, **more):
        # A connection of its own for each, as processes have.
        return super().accounts(store or self.open(), **more)

    async def test_the_key_is_encrypted(self):
        client = await self.opened()
        query = "SELECT * FROM secrets WHERE name LIKE 'acme-%'"
        kept = list(sqlite3.connect(self.folder / "proxy.sqlite").execute(query))
        self.assertEqual(len(kept), 2)
        self.assertNotIn("PRIVATE KEY", str(kept))
        self.assertNotIn(client.account, str(kept))


class BoundAccountsTests(AccountsCase):
    options = {"eab_keys": {"kid-1": EAB_KEY}}

    async def test_bound_once_and_for_all(self):
        first = await self.opened(eab_kid="kid-1", eab_hmac_key=EAB_KEY)
        again = await self.opened()
        self.assertEqual(again.account, first.account)

    async def test_a_key_that_serves_once(self):
        first = await self.opened(eab_kid="kid-1", eab_hmac_key=EAB_KEY)
        # The account's URL was lost, its key was not: a new process has a kid that is spent, or none.
        for name in [name for name in self.store._secrets if name.startswith("acme-account-")]:
            del self.store._secrets[name]
        again = await self.opened(eab_kid="spent", eab_hmac_key=OTHER_KEY)
        self.assertEqual(again.account, first.account)

    async def test_a_wrong_one_is_told_without_its_key(self):
        accounts = self.accounts(eab_kid="kid-1", eab_hmac_key=OTHER_KEY)
        error = await self.refused(accounts.client(self.pebble.directory), Problem)
        self.assertTrue(str(error))
        told = f"{error!s} {error!r} {accounts!r} {self.events}"
        self.assertNotIn(OTHER_KEY, told)

    async def test_none(self):
        error = await self.refused(self.accounts().client(self.pebble.directory), Problem)
        self.assertEqual(error.type, "externalAccountRequired")
