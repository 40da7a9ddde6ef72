"""The error that `--error` selects."""

import pytest

from syncctl.commands.filters import FINGERPRINT_DIGITS, complete_fingerprint
from syncctl.core.fingerprint import fingerprint
from syncctl.errors import UsageError


def test_the_number_of_digits_is_that_of_a_fingerprint() -> None:
    assert len(fingerprint(422, "bad")) == FINGERPRINT_DIGITS


def test_the_first_digits_select_the_one_error_that_begins_with_them() -> None:
    known = ["4f1d2c77b05e", "4f1d2c88b05e", "0123456789ab"]
    assert complete_fingerprint("012345", known) == "0123456789ab"
    assert complete_fingerprint("4f1d2c7", known) == "4f1d2c77b05e"
    assert complete_fingerprint("ffffff", known) == "ffffff"
    with pytest.raises(UsageError, match="ambiguous: 2 errors begin with it") as error:
        complete_fingerprint("4f1d2c", known)
    assert error.value.why == "4f1d2c77b05e, 4f1d2c88b05e"
