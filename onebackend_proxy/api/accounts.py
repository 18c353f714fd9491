"""Accounts and their logins: the rules, without HTTP."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from ..errors import Conflict, SettingError, Unauthenticated
from ..interfaces import IStore
from ..password_work import PasswordWork
from ..records import ADMIN_ROLE, ADMIN_SLUG, USER_ROLE, Account, App, Token
from ..routing import is_slug
from .ids import new_id
from .permissions import USER_CREATE, is_authorized, require
from .throttle import LoginThrottle, RegistrationThrottle
from .tokens import DEFAULT_LIFETIME, Claims, TokenIssuer, open_issuer

KEPT_TOKENS = 1000
"""Tokens of one account: a client may log in anew at each run, and must not soon end all others' logins."""
REFRESHABLE = datetime.timedelta(days=30)
UNKNOWN_DEVICE = "unknown"


@attrs.frozen
class Login:
    """A token just issued; `jwt` is what the client keeps."""

    token: Token
    jwt: str = attrs.field(repr=False)


@attrs.frozen
class Self:
    """What an account may know about itself."""

    account: Account
    token_count: int = 0


@attrs.frozen
class Authorization:
    """Whether the bearer of a token has a permission, and whose token it is."""

    authorized: bool
    account: Account
    app: App
    until: datetime.datetime


class Accounts:
    """Logs in, registers, refreshes and tells who somebody is. Make one with `open_accounts`."""

    def __init__(
        self,
        store: IStore,
        issuer: TokenIssuer,
        work: PasswordWork,
        seconds: Callable[[], float],
        *,
        open_registration: bool = False,
        slug_in_use: Callable[[str], bool] = lambda slug: False,
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._work = work
        self._open_registration = open_registration
        self._slug_in_use = slug_in_use
        self._logins = LoginThrottle(seconds)
        self._registrations = RegistrationThrottle(seconds)

    @property
    def public_key(self) -> str:
        """The key that tokens verify with, in PEM."""
        return self._issuer.public_key_pem

    def verify(self, jwt: str, *, allow_expired: bool = False) -> Claims:
        """Whom the token speaks for, or `errors.Unauthenticated`."""
        return self._issuer.verify(jwt, allow_expired=allow_expired)

    async def require_kept(self, caller: Claims) -> None:
        """Raise `errors.Unauthenticated` if an admin's token was forgotten, as another password makes it.

        Others' tokens are good until they expire, without a look into the store.
        """
        if caller.is_admin:
            await self._kept_token(caller)

    async def ensure_admin(self, password: str) -> None:
        """Make the account ``1backend``, or set its password if it is another one now."""
        if not password:
            raise SettingError("OB_ADMIN_PASSWORD is empty")
        account = await self._store.account(ADMIN_SLUG)
        if account is None:
            admin = self._new_account(ADMIN_SLUG, "1Backend admin", await self._work.hash(password))
            await self._store.create_account(attrs.evolve(admin, roles=(USER_ROLE, ADMIN_ROLE)))
        elif not await self._work.check(password, account.password_hash):
            await self._store.set_password(account.id, await self._work.hash(password))

    async def login(self, slug: str, password: str, app_host: str, device: str, address: str) -> Login:
        """A token for the right slug and password; `errors.Unauthenticated` never says which was wrong."""
        # What is no slug is nobody's, and must not fill the throttle's tables with long keys.
        known = slug if is_slug(slug) else ""
        self._logins.check(address, known)
        account = await self._store.account(known)
        right = await self._work.check(password, account.password_hash if account else None)
        self._logins.check(address, known)
        if account is None or not right:
            self._logins.failed(address, known)
            raise Unauthenticated("wrong slug or password")
        self._logins.succeeded(address, known)
        return await self._issue(account, (await self._store.app(app_host)).id, device)

    async def register(
        self,
        slug: str,
        name: str,
        password: str,
        app_host: str,
        device: str,
        *,
        caller: Claims | None,
        address: str,
    ) -> Login:
        """A new account, logged in; `errors.Conflict` if the slug is taken.

        For anybody but an admin it is taken as well while instances serve it: their traffic is not to be had
        by being the first to ask for their name.
        """
        by_admin = self._may_register(caller, address)
        if await self._store.account(slug) is not None or (not by_admin and self._slug_in_use(slug)):
            raise Conflict(f"the slug {slug} is taken")
        account = self._new_account(slug, name or slug, await self._work.hash(password))
        await self._store.create_account(account)
        return await self._issue(account, (await self._store.app(app_host)).id, device)

    def _may_register(self, caller: Claims | None, address: str) -> bool:
        """Whether it is an admin who registers; raises if nobody else may."""
        if caller is not None and is_authorized(caller.roles, USER_CREATE):
            return True
        if self._open_registration:
            self._registrations.attempt(address)
        elif caller is None:
            raise Unauthenticated("registering an account needs the token of an admin")
        else:
            require(caller.roles, USER_CREATE)
        return False

    async def refresh(self, caller: Claims) -> Login:
        """A new token in place of one that may have expired; the old one stays good for as long as it was.

        Two processes may share a token, and refresh it at the same time.
        """
        token = await self._kept_token(caller)
        if token.created_at + REFRESHABLE < self._issuer.now():
            raise Unauthenticated("the token is too old to be refreshed: log in again")
        return await self._issue(await self._account(caller), token.app_id, token.device)

    async def self(self, caller: Claims, count_tokens: bool) -> Self:
        """The caller's own account."""
        account = await self._account(caller)
        return Self(account, await self._store.count_tokens(account.id) if count_tokens else 0)

    async def has_permission(self, caller: Claims, permission: str) -> Authorization:
        """Whether the caller has `permission`."""
        account = await self._account(caller)
        app = await self._store.app_by_id(caller.app_id)
        if app is None:
            raise Unauthenticated("the app of this token is gone")
        return Authorization(is_authorized(account.roles, permission), account, app, caller.expires_at)

    async def _kept_token(self, caller: Claims) -> Token:
        token = await self._store.token(caller.token_id)
        if token is None:
            raise Unauthenticated("the token is no longer known: log in again")
        return token

    async def _account(self, caller: Claims) -> Account:
        account = await self._store.account_by_id(caller.account_id)
        if account is None:
            raise Unauthenticated("the account of this token is gone")
        return account

    async def _issue(self, account: Account, app_id: str, device: str) -> Login:
        token, jwt = self._issuer.issue(account, app_id, device or UNKNOWN_DEVICE)
        await self._store.save_token(token, KEPT_TOKENS, token.created_at - REFRESHABLE)
        return Login(token, jwt)

    def _new_account(self, slug: str, name: str, password_hash: str) -> Account:
        now = self._issuer.now()
        return Account(
            id=new_id("usr"),
            slug=slug,
            name=name,
            password_hash=password_hash,
            roles=(USER_ROLE,),
            created_at=now,
            updated_at=now,
        )


def open_accounts(
    store: IStore,
    seconds: Callable[[], float],
    *,
    token_lifetime: int = DEFAULT_LIFETIME,
    open_registration: bool = False,
    slug_in_use: Callable[[str], bool] = lambda slug: False,
    work: PasswordWork | None = None,
) -> Deferred[Accounts]:
    """The accounts in `store`; `seconds` is the Unix time (a reactor's own ``seconds``).

    `slug_in_use` tells whether instances serve a slug, which open registration then does not give away.
    """

    async def make() -> Accounts:
        issuer = await open_issuer(store, seconds, token_lifetime)
        return Accounts(
            store,
            issuer,
            work or PasswordWork(),
            seconds,
            open_registration=open_registration,
            slug_in_use=slug_in_use,
        )

    return Deferred.fromCoroutine(make())
