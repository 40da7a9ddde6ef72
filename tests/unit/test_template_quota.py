"""Templates: neither a mistake in one nor a value of a row can fill the memory, and ordinary sizes are unaffected."""

import re
import tracemalloc

import pytest

from syncctl.partner.call import Unsendable
from syncctl.partner.request import quota
from syncctl.partner.request.template import TextTemplate
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
    "{{ row.name.center(99999999) }}",
    "{{ row.name.ljust(99999999) }}",
    "{{ row.name.zfill(99999999) }}",
    "{{ 1 | round(99999999, 'floor') }}",
    "{% set x = 'x' * 10000 %}{{ x | replace('x', x) }}",
    "{% set x = 'x' * 10000 %}{{ x.replace('x', x) }}",
    "{% set x = 'x' * 10000 %}{{ range(10000) | join(x) }}",
    "{% set n = namespace(x='x') %}{% for _ in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='x') %}{% for _ in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for _ in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    "{% set n = namespace(x=[1]) %}{% for _ in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | json }}",
    "{% set n = namespace(x=9) %}{% for _ in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{% for a in range(9**5) %}{% for b in range(9**5) %}x{% endfor %}{% endfor %}{% endmacro %}{{f()}}",
    "{% set x = 'x' * 1000000 %}" + "{{ x }}" * 17,
    "{{ range(10**9) | list | length }}",
    "{% set n = namespace(x='x') %}{% for _ in range(40) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}x{% endmacro %}{{ f(40) | length }}",
    "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(40) | length }}",
    "{% for x in [1] recursive %}{{ loop([1] * 50000) if loop.depth < 4 }}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop(iterable=[1] * 50000) if loop.depth < 4 }}{% endfor %}",
    (
        "{% set x = 'x' * 1000000 %}{% set n = namespace(x=[]) %}"
        "{% for i in range(900) %}{% set n.x = n.x + [x[i:]] %}{% endfor %}{{ n.x | length }}"
    ),
    (
        "{% set x = 'x' * 1000000 %}{% set n = namespace(x=[]) %}"
        "{% for i in range(900) %}{% set n.x = n.x + [x | upper] %}{% endfor %}{{ n.x | length }}"
    ),
    "{{ ([[1] * 1000] * 1000) | sum(start=[]) | length }}",
    "{{ ([['x' * 100000] * 1000] * 1000) | join | length }}",
    "{{ ([['x' * 100000] * 1000] * 1000) | string | length }}",
    "{{ '' ~ ([['x' * 100000] * 1000] * 1000) }}",
    "{{ ('%s' * 1000) | format(*(['x' * 100000] * 1000)) }}",
    "{{ ('%(a)s' * 1000) % {'a': 'x' * 100000} }}",
    "{{ ([{'x' * 100000: 1}] * 1000) | json }}",
    "{{ ('x' * 60000000) | list | length }}",
    "{{ ['x' * 1000000] * 90000 == ['x' * 1000000] * 90000 }}",
    "{{ {'a': ('x' * 1000000,) * 90000} | length }}",
    "{{ ('x' * 3000000).split('x') | length }}",
    "{{ ('x ' * 1000000).rsplit() | length }}",
    "{{ ('x ' * 1000000).split(sep=' ') | length }}",
    "{{ ('x\\n' * 1000000).splitlines() | length }}",
    "{{ {'a': 'x' * 2000000} | urlencode | length }}",
    "{{ ('x' * 4000000) | sort | length }}",
    "{% set n = namespace(x=[]) %}{% for _ in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | join }}",
]

REFUSED = [
    ("{{ '{:99999999}'.format(1) }}", "a template cannot call .format(); use ~ or the filter format"),
    ("{{ '{a:{b}}'.format_map({'a': 1, 'b': 9}) }}", "cannot call .format_map()"),
    ("{{ '\\t'.expandtabs(99999999) }}", "cannot call .expandtabs()"),
    ("{{ (7).to_bytes(99999999, 'big') | length }}", "cannot call .to_bytes()"),
    ("{{ 'x'.join(['a']) }}", "cannot call .join(); use the filter join"),
    ("{{ 'x'.translate({120: 'y'}) }}", "cannot call .translate(); docs/"),
    ("{{ row.name | center(99999999) }}", "No filter named 'center'"),
    ("{{ row.name | indent(99999999, true) }}", "No filter named 'indent'"),
    ("{{ [1] | batch(99999999, 0) | list | length }}", "No filter named 'batch'"),
    ("{{ [1] | slice(99999999) | list | length }}", "No filter named 'slice'"),
]


@pytest.mark.parametrize(("source", "text"), REFUSED)
def test_a_filter_or_method_beyond_the_list_is_refused_when_settings_are_read(source: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^line 1: .*{re.escape(text)}"):
        TextTemplate(source, title="body")


@pytest.mark.parametrize(
    "source",
    [
        "{% set f = '{:9}'.format %}{{ f(1) }}",
        "{{ 'x'['translate']({120: 'y'}) }}",
        "{% set f = row.id.to_bytes %}{{ f(9, 'big') }}",
        "{% set f = dict.fromkeys %}{{ f([1]) | json }}",
        "{{ ['a'] | map(attribute='expandtabs') | join }}",
    ],
)
def test_a_filter_beyond_the_list_cannot_be_reached_another_way(source: str) -> None:
    with pytest.raises(Unsendable, match=r"^body, line 1: (access to attribute|'int object' has no)"):
        render(source)


EXCEEDED = r"(it (makes|loops|writes|rounds) |Range too big|sum adds numbers)"


@pytest.mark.parametrize("source", HUGE)
def test_no_template_fills_the_memory(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A sixteenth of the quota: reaching all of it may take a minute while every object is traced.
    monkeypatch.setattr(quota, "MADE_AT_MOST", quota.MADE_AT_MOST // 16)
    monkeypatch.setattr(quota, "ROUNDS_AT_MOST", quota.ROUNDS_AT_MOST // 16)
    tracemalloc.start()
    try:
        with pytest.raises(Unsendable, match=rf"^body, line 1: {EXCEEDED}"):
            render(source)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ ('-' * 3) ~ '%05d' | format(row.id) ~ (row.id | string).rjust(4) }}", "---00007   7"),
        ("{{ 'Order 20240101123456 %s %(20240101)s' | replace('%', '') }}", "Order 20240101123456 s (20240101)s"),
        ("{{ '%(20240101)s %.2f' | format(**{'20240101': 7}) if false else '%.2f' | format(1.234) }}", "1.23"),
        ("{{ '20240101123456 %s' % 'a' }}", "20240101123456 a"),
        ("{{ 2 ** 10 }} {{ 2 * 3 }} {{ ([1] + [2]) | join }}", "1024 6 12"),
        ("{% for x in [1, 2] %}{{ loop.length }}{{ loop.last }}{% else %}-{% endfor %}", "2false2true"),
        ("{% for x in [] %}{{ x }}{% else %}-{% endfor %}", "-"),
        ("{{ [1, 2] | map('string') | join(',') }}{{ ['b'] | join(d='-') }}", "1,2b"),
        ("{{ 'a'.center(3) }}|{{ 'aXb' | replace('X', '-') }}|{{ 'aXb'.replace('X', '-') }}", " a |a-b|a-b"),
        ("{{ [1, 2, 3] | sum }}{{ 1.25 | round(1) }}{{ 'abc'[1:] }}{{ [1, 2, 3][:2] | join }}", "61.2bc12"),
        ("{{ 'aa' | replace('a', 'b', count=1) }}{{ 'aa' | replace(old='a', new='b') }}", "babb"),
        ("{{ '%(a)s %(text)s' | format(a=1, text=2) }}{{ [1, 2] | sum(start=3) }}", "1 26"),
        ("{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}{{ [{'a': 1}] | join(d='-', attribute='a') }}", "31"),
        ("{{ 1.25 | round(precision=1, method='floor') }}{{ 'abcdef' | truncate(length=4, leeway=0) }}", "1.2a..."),
        ("{{ [1, 2] | map('string') | map('replace', '1', 'x') | join }}{{ none | default(value=3) if false }}", "x2"),
        ("{% set x %}a{{ row.id }}{% endset %}{{ x }}{% set y | upper %}b{{ x }}{% endset %}{{ y }}", "a7BA7"),
        ("{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "12"),
        (
            "{% for g in [{'a': 1}, {'a': 2}] | groupby('a') %}{{ g.grouper }}:{{ g.list | length }} {% endfor %}",
            "1:1 2:1 ",
        ),
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ {'a': 1}.get('a') }}", "ab1"),
        ("{{ 'x' * 1000000 }}", "x" * 1_000_000),
        ("{% set x = 'x ' * 200000 %}{{ x.split(' ', 2) | length }}{{ x.rsplit(maxsplit=1) | length }}", "32"),
        ("{{ 'a b'.split() | join }}{{ 'a b'.split(none) | join }}{{ ('a' * 3000 ~ ',b').split(',')[1] }}", "ababb"),
    ],
)
def test_a_template_of_ordinary_size_stays_within_its_quota(source: str, text: str) -> None:
    assert render(source) == text
