"""Templates: neither a slip in one nor a value of a row fills the memory, and ordinary sizes are left alone."""

import tracemalloc

import pytest

from syncctl.partner.call import Unsendable
from syncctl.partner.request import limits
from tests.unit.test_templates import render

HUGE = [
    "{{ 'x' * 10**8 }}",
    "{{ 100000000 * 'x' }}",
    "{{ row.name * 99999999 }}",
    "{{ ([0] * 10**9) | length }}",
    "{{ 9 ** 99999 }}",
    "{{ (2 ** 999) ** 999 }}",
    "{{ (2 ** 9000) * (2 ** 9000) }}",
    "{{ '%99999999d' | format(1) }}",
    "{{ '%*d' | format(99999999, 1) }}",
    "{{ '%99999999d' % 1 }}",
    "{{ '%.*f' % (99999999, 1.5) }}",
    "{{ '{:99999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 99999999) }}",
    "{{ '{a:{b}}'.format_map({'a': 1, 'b': 99999999}) }}",
    "{{ row.name | center(99999999) }}",
    "{{ row.name.center(99999999) }}",
    "{{ row.name.ljust(99999999) }}",
    "{{ row.name.zfill(99999999) }}",
    "{{ '\t'.expandtabs(99999999) }}",
    "{{ '\t'.expandtabs(tabsize=99999999) }}",
    "{{ row.name | indent(99999999, true) }}",
    "{{ (7).to_bytes(99999999, 'big') | length }}",
    "{{ 1 | round(99999999, 'floor') }}",
    "{{ [1] | batch(99999999, 0) | list | length }}",
    "{{ [1] | slice(99999999) | list | length }}",
    "{% set x = 'x' * 10000 %}{{ x | replace('x', x) }}",
    "{% set x = 'x' * 10000 %}{{ x.replace('x', x) }}",
    "{% set x = 'x' * 10000 %}{{ range(10000) | join(x) }}",
    "{% set x = 'x' * 10000 %}{{ x.join(x | list) }}",
    "{% set x = 'x' * 10000 %}{{ x.translate({120: x}) }}",
    "{% set n = namespace(x='x') %}{% for _ in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='x') %}{% for _ in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for _ in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    "{% set n = namespace(x=[1]) %}{% for _ in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | json }}",
    "{% set n = namespace(x=9) %}{% for _ in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{% for a in range(9**5) %}{% for b in range(9**5) %}x{% endfor %}{% endfor %}{% endmacro %}{{f()}}",
    "{% set x = 'x' * 1000000 %}" + "{{ x }}" * 17,
    "{{ range(10**9) | list | length }}",
]


@pytest.mark.parametrize("source", HUGE)
def test_no_template_fills_the_memory(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A sixteenth of what is allowed: to come to all of it may take a minute, when every object is traced.
    monkeypatch.setattr(limits, "MADE_AT_MOST", limits.MADE_AT_MOST // 16)
    tracemalloc.start()
    try:
        with pytest.raises(Unsendable, match=r"^body, line 1: (it (makes|loops|writes|rounds) |Range too big)"):
            render(source)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ ('-' * 3) ~ '%05d' | format(row.id) ~ '{:>4}'.format(row.id) }}", "---00007   7"),
        ("{{ 'Order 20240101123456 {} {}'.format(1, 2) }}", "Order 20240101123456 1 2"),
        ("{{ '20240101123456 %s' % 'a' }}", "20240101123456 a"),
        ("{{ 2 ** 10 }} {{ 2 * 3 }} {{ ([1] + [2]) | join }}", "1024 6 12"),
        ("{% for x in [1, 2] %}{{ loop.length }}{{ loop.last }}{% else %}-{% endfor %}", "2false2true"),
        ("{% for x in [] %}{{ x }}{% else %}-{% endfor %}", "-"),
        ("{{ [1, 2] | map('string') | join(',') }}{{ ['b'] | join(d='-') }}", "1,2b"),
        ("{{ 'a\nb' | indent(2) }}|{{ 'a' | center(3) }}|{{ 'aXb' | replace('X', '-') }}", "a\n  b| a |a-b"),
        ("{{ [1, 2, 3] | batch(2) | list | length }}{{ 1.25 | round(1) }}", "21.2"),
        ("{{ 'x' * 1000000 }}", "x" * 1_000_000),
    ],
)
def test_what_is_of_an_ordinary_size_is_written(source: str, text: str) -> None:
    assert render(source) == text
