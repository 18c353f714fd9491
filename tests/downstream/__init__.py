"""Tests of the client's side; what they share says why an assertion failed, as they do."""

import pytest

pytest.register_assert_rewrite("tests.conformance", "tests.wire")
