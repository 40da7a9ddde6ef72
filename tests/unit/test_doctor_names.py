"""The names that `syncctl doctor` takes: groups, and single checks as they are shown."""

import pytest

from syncctl.doctor.groups import GROUPS, choose_checks, is_chosen, settle_names
from syncctl.errors import UsageError

KNOWN = ("redis", "redis eviction", "source orders", "source partner", "streams orders", "streams removed")


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ((), GROUPS),
        (("source",), ("source",)),
        (("source", "redis"), ("redis", "source")),
        (("source", "orders"), ("source orders",)),
        (("source orders",), ("source orders",)),
        (("source", "orders", "invoices", "redis"), ("redis", "source orders", "source invoices")),
        (("source", "partner"), ("source", "partner")),
        (("source partner",), ("source partner",)),
        (("source", "orders", "source orders"), ("source orders",)),
    ],
)
def test_words_name_groups_and_single_checks(words: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert choose_checks(words) == chosen


def test_a_group_means_all_of_its_checks_and_a_check_itself_alone() -> None:
    assert [name for name in KNOWN if is_chosen(name, ("redis", "streams orders"))] == [
        "redis",
        "redis eviction",
        "streams orders",
    ]


DEEP = ("source default server", "source default clock", "source orders", "source orders index", "source orders gaps")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("source", "orders", "index"), {"source orders index"}),
        (("source orders index",), {"source orders index"}),
        (("source", "orders", "index", "gaps"), {"source orders index", "source orders gaps"}),
        (("source", "orders"), {"source orders", "source orders index", "source orders gaps"}),
        (("source", "default"), {"source default server", "source default clock"}),
        (("source", "default", "orders"), set(DEEP)),
        (("source",), set(DEEP)),
    ],
)
def test_a_word_behind_a_name_continues_it_and_a_name_means_what_goes_on_behind_it(
    words: tuple[str, ...], expected: set[str]
) -> None:
    chosen = settle_names(choose_checks(words), DEEP)
    assert {name for name in DEEP if is_chosen(name, chosen)} == expected


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("orders",), "known: configuration, redis, "),
        (("sorce",), "did you mean source?"),
        (("source", "ordres"), "did you mean source orders?"),
        (("redis", "sorce"), "did you mean source?"),
        (("streams", "evict"), "known: streams orders, streams removed"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle_names(choose_checks(words), KNOWN)
    assert caught.value.why.startswith(why)
