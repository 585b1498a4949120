"""The contract of a method, as checks that anyone can run against their own.

    from holdfast.testing import check_method

    def test_my_method_keeps_the_contract():
        check_method(MyMethod)

Every method that ships with holdfast passes all of them.
"""

from __future__ import annotations

from holdfast.testing.checks import CHECKS, check_method
from holdfast.testing.comparison import ContractError
from holdfast.testing.trials import small_stream

__all__ = ["CHECKS", "ContractError", "check_method", "small_stream"]
