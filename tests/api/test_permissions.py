from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.api.permissions import PERMISSIONS, is_authorized, require
from onebackend_proxy.errors import NotPermitted
from onebackend_proxy.records import ADMIN_ROLE, USER_ROLE


def test_an_admin_has_all_of_the_table_and_a_user_the_registry():
    assert all(is_authorized([ADMIN_ROLE], permission) for permission in PERMISSIONS)
    assert {p for p in PERMISSIONS if is_authorized([USER_ROLE], p)} == {
        "registry-svc:instance:view",
        "registry-svc:instance:edit",
        "registry-svc:instance:delete",
    }


@given(st.text())
def test_an_unknown_permission_nobody_has(permission):
    known = permission in PERMISSIONS
    assert is_authorized([ADMIN_ROLE, USER_ROLE, permission], permission) == known


def test_require_names_it():
    require([ADMIN_ROLE], "proxy-svc:route:edit")
    with pytest.raises(NotPermitted, match="proxy-svc:route:edit"):
        require([USER_ROLE], "proxy-svc:route:edit")
    with pytest.raises(NotPermitted):
        require([], "registry-svc:instance:view")
