"""Send records again whose rows have not changed, because an operator has rewound and asked for it."""

from collections.abc import Sequence

from syncctl.ledger.ledger import Ledger


def resend_records(ledger: Ledger, ids: Sequence[str]) -> set[str]:
    """Make delivered records due again under a new key; return those that are in the ledger. Safe to repeat.

    What is on its way goes once more after it was accepted. Records that failed wait for a replay.
    """
    if not ids:
        return set()
    ledger.delivery_states.resend(ids)
    # Asked afterwards: until it is due again, a clean-up may remove a delivered record.
    return {each.id for each in ledger.records.load_logged(ids)}
