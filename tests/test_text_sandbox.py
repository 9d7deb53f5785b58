"""A hostile template is stopped before it reaches anything or costs much."""

import resource

import pytest

from cortex.ask import Message
from cortex.errors import Unfit
from cortex.text import budget
from cortex.text.template import ChatTemplate

SAYS = "{{ messages[-1].content }}"
NS = "{% set ns = namespace(s='a', l=['a'], n=3) %}"
LONG = "{% set s = 'a' * 1000000 %}"
MANY = "{% set r = range(100000) %}"


def peak_mib() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sixty(deed: str) -> str:
    return NS + "{% for i in range(60) %}" + deed + "{% endfor %}"


ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "globals of ours": "{{ raise_exception.__globals__['json'] }}",
    "by item": "{{ ''['__class__']['__mro__'] }}",
    "by filter": "{{ (''|attr('__class__')).mro() }}",
    "by map": "{{ (['']|map(attribute='__class__.__mro__')|list)[0][0] }}",
    "the code of a macro": "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "format by filter": "{{ ('{0.__class__}'|attr('format'))(1) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "the environment": "{{ self._TemplateReference__context.environment.loader }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({'role': 'x'}) }}",
    "clear by filter": "{{ (messages|attr('clear'))() }}",
    "pop": "{{ messages.pop() }}",
}

BOMBS = {
    "two long loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "a loop over long text": "{% for i in range(20000) %}" + "x" * 50_000 + "{% endfor %}",
    "two loops over one list": MANY + "{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "a huge range": "{% for i in range(10000000000) %}{% endfor %}",
    "macros without end": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "macros that branch": (
        "{% macro f(n) %}{{ 'x' * 900 }}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}"
    ),
    "callers": (
        "{% macro m() %}{{ caller() }}{% endmacro %}{% for i in range(100000) %}{% call m() %}"
        + "y" * 50_000
        + "{% endcall %}{% endfor %}"
    ),
    "a product": "{{ 'a' * 10000000000 }}",
    "a product of lists": "{{ ([0] * 10000000000)|length }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "numbers squared": sixty("{% set ns.n = ns.n * ns.n %}"),
    "doubled by +": sixty("{% set ns.s = ns.s + ns.s %}"),
    "doubled by ~": sixty("{% set ns.s = ns.s ~ ns.s %}"),
    "doubled by a block": sixty("{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
    "a list that holds itself twice": sixty("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}",
    "a namespace as text": sixty("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns }}",
    "a dict that holds itself twice": sixty("{% set ns.l = {'a': ns.l, 'b': ns.l} %}") + "{{ ns.l|tojson }}",
    "by a mapped filter": sixty("{% set ns.l = [ns.l, ns.l] %}") + "{{ [ns.l]|map('trim')|list }}",
    "join": LONG + "{{ range(100000)|join(s) }}",
    "str.join": LONG + "{{ s.join(range(100000)|map('string')) }}",
    "str.join of one text many times": LONG + "{{ ''.join([s] * 100000) }}",
    "replace": LONG + "{{ s|replace('a', s) }}",
    "str.replace": LONG + "{{ s.replace('', s) }}",
    "indent": "{% set s = '\n' * 1000000 %}{{ s|indent(s) }}",
    "indent by a number": "{{ 'a\nb'|indent(10000000000) }}",
    "JSON by a number": "{{ [1]|tojson(indent=10000000000) }}",
    "center": "{{ 'a'|center(10000000000) }}",
    "str.center": "{{ 'a'.center(10000000000) }}",
    "str.ljust": "{{ 'a'.ljust(10000000000) }}",
    "str.zfill by filter": "{{ ('a'|attr('zfill'))(10000000000) }}",
    "str.expandtabs": "{{ '\t'.expandtabs(10000000000) }}",
    "a format's width": "{{ '%10000000000d' % 1 }}",
    "a filter's format": "{{ '%*d'|format(10000000000, 1) }}",
    "slice": "{{ [1]|slice(10000000000)|list }}",
    "batch": "{{ [1]|batch(10000000000, 'x')|list }}",
    "long lists listed": MANY + "{% for i in range(100000) %}{% set x = r|list %}{% endfor %}",
    "lists summed": "{% set l = range(100000)|list %}{{ ([l] * 1000)|sum(start=[])|length }}",
}

TWINS = NS + (
    "{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}"
)
OFTEN = MANY + "{% for i in r %}"
DEEP = NS + "{% for i in range(900) %}{% set ns.l = [ns.l] %}{% endfor %}{% set l = [ns.l] * 1000 %}"
LISTED = "{% set l = range(100000)|list %}"
# What costs time in one step of ours: copies, comparisons, searches.
BOMBS |= {
    "slices of text": LONG + OFTEN + "{% set x = s[1:] %}{% endfor %}",
    "slices of a list": LISTED + OFTEN + "{% set x = l[::-1] %}{% endfor %}",
    "text held against text": LONG + "{% set t = s[1:] ~ 'a' %}" + OFTEN + "{{ s == t }}{% endfor %}",
    "text in text": LONG + OFTEN + "{% if 'b' in s %}{% endif %}{% endfor %}",
    "a word in a list": LISTED + OFTEN + "{% if 'b' not in l %}{% endif %}{% endfor %}",
    "twins held against each other": TWINS + "{{ ns.l == ns.m }}",
    "twins in a list": TWINS + "{{ ns.l in [ns.m] }}",
    "the lesser of twins": TWINS + "{{ 1 < 2 and ns.l < ns.m }}",
    "twins sorted": TWINS + "{{ [ns.l, ns.m]|sort|length }}",
    "twins asked": TWINS + "{{ ns.l is eq ns.m }}",
    "twins selected": TWINS + "{{ [ns.l]|select('eq', ns.m)|list|length }}",
    "twins counted": TWINS + "{{ [ns.l].count(ns.m) }}",
    "twins in turn": TWINS + "{% for x in [ns.l, ns.m] %}{{ loop.changed(x) }}{% endfor %}",
    "words selected by a long text": LONG + MANY + "{{ r|map('string')|select('in', s)|list|length }}",
    "lists counted": LISTED + OFTEN + "{% set x = l.count('b') %}{% endfor %}",
    "lists copied": LISTED + OFTEN + "{% set x = l.copy() %}{% endfor %}",
    "many arguments": OFTEN + "{% set x = cycler(*r) %}{% endfor %}",
    "dicts of dicts": "{% set d = dict(range(100000)|batch(2)) %}"
    + OFTEN
    + "{% set x = dict(d) %}{% endfor %}",
    "numbers doubled by +": NS + OFTEN + "{% set ns.n = ns.n + ns.n %}{% endfor %}",
    "numbers doubled by -": NS + OFTEN + "{% set ns.n = ns.n - (0 - ns.n) %}{% endfor %}",
    "a long number divided": "{% set n = ('f' * 100000)|int(0, 16) %}"
    + OFTEN
    + "{% set x = n // 3 %}{% endfor %}",
    "case of long text": LONG + OFTEN + "{% if s is lower %}{% endif %}{% endfor %}",
    "deep JSON": DEEP + "{{ l|tojson(indent=64)|length }}",
    "an indent by its number": "{% set s = '\n' * 900000 %}{{ s|indent(64)|length }}",
    "one argument named often": "{% set s = 'a' * 200000 %}{{ ('"
    + "%(a)s" * 9000
    + "' % {'a': s})|length }}",
    "a date's width": "{{ strftime_now('%999999999d') }}",
    "a long date": LONG + "{{ strftime_now(s) }}",
}

TUPLES = NS + "{% set ns.l = (1,) %}{% for i in range(60) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}"
LISTS = sixty("{% set ns.l = [ns.l, ns.l] %}")
PATH = "attribute='" + ".".join("0" * 8000) + "'"
LETTERS = "{% set l = ['a'] * 50000 %}"
# What hides behind one step of Jinja's: keys, paths, words of an error.
BOMBS |= {
    "a tuple as a key": TUPLES + "{% set x = {ns.l: 1} %}",
    "a lookup by a tuple": TUPLES + "{{ {}[ns.l] }}",
    "a get by a tuple": TUPLES + "{{ {}.get(ns.l) }}",
    "a dict of pairs": TUPLES + "{{ dict([(ns.l, 1)])|length }}",
    "keys from a list": TUPLES + "{{ {}.fromkeys([ns.l])|length }}",
    "a tuple among keys": TUPLES + "{% if ns.l in {}.keys() %}{% endif %}",
    "a tuple as an attribute": TUPLES + "{{ [{}]|map(attribute=ns.l)|list }}",
    "a tuple as a filter": TUPLES + "{{ [1]|map(ns.l)|list }}",
    "a tuple that may be a filter": TUPLES + "{{ ns.l is filter }}",
    "an error about a tuple": TUPLES + "{{ raise_exception(ns.l) }}",
    "an error about a list": LISTS + "{{ {}[ns.l].foo }}",
    "a list as an attribute": LISTS + "{{ ''|attr(ns.l) }}",
    "a path mapped": LETTERS + "{{ l|map(" + PATH + ")|list|length }}",
    "the largest by a path": LETTERS + "{{ l|max(" + PATH + ") }}",
    "groups by a path": LETTERS + "{{ l|groupby(" + PATH + ")|length }}",
    "sorted by many paths": LETTERS + "{{ l|sort(" + PATH.replace(".", ",") + ")|length }}",
    "short lists summed": "{{ ([[1, 1, 1]] * 30000)|sum(start=[])|length }}",
    "tuples summed": "{{ ([(1, 1, 1)] * 30000)|sum('0', ())|length }}",
    "replace by keywords": "{% set s = 'a' * 40000 %}{{ s|replace(new=s, old='a')|length }}",
    "wide separators": "{{ ([1] * 40000)|tojson(separators=('a' * 40000, ':'))|length }}",
    "a wide indent": "{{ ([1] * 40000)|tojson(indent='a' * 40000)|length }}",
}

OTHERS = {
    "a recursive loop": "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as x %}",
    "from": "{% from 'x' import y %}",
    "extends": "{% extends 'x' %}",
}


@pytest.mark.parametrize("hostile", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_template_reaches_and_changes_nothing(hostile: str):
    """Fault row 82: a hostile template (escape) makes its model not servable."""
    with pytest.raises(Unfit, match=r"not safe to run: access to attribute .* is unsafe"):
        ChatTemplate(SAYS + hostile, bos=None, eos=None)


@pytest.mark.parametrize("hostile", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_before_it_fills_the_memory(hostile: str, monkeypatch: pytest.MonkeyPatch):
    """Fault row 82: a hostile template (loop bomb, memory bomb) makes its model not servable."""
    if "100000" not in hostile:  # what is without end can as well end sooner
        monkeypatch.setattr(budget, "_FLOOR", 100_000)
    before = peak_mib()
    with pytest.raises(Unfit, match="not safe to run"):
        ChatTemplate(SAYS + hostile, bos=None, eos=None)
    assert peak_mib() - before < 256


@pytest.mark.parametrize("hostile", OTHERS.values(), ids=OTHERS.keys())
def test_what_cannot_be_metered_is_refused_at_compile_time(hostile: str):
    with pytest.raises(Unfit, match=r"cannot be compiled: it (has a recursive loop|loads another template)"):
        ChatTemplate(SAYS + hostile, bos=None, eos=None)


def test_a_bomb_that_waits_for_its_word_is_refused_when_it_comes():
    template = ChatTemplate(
        SAYS + "{% if 'go' in messages[0].content %}" + BOMBS["two long loops"] + "{% endif %}",
        bos=None,
        eos=None,
    )
    assert template.render([Message("user", "hello")], [], {}) == "hello"
    with pytest.raises(Unfit, match="far more work than its messages can need"):
        template.render([Message("user", "go")], [], {})


def test_a_long_dialogue_is_no_bomb():
    """The budget grows with the dialogue: an honest template never meets it."""
    template = ChatTemplate(
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content|trim ~ '|' }}"
        "{% for n in messages[:3] %}{{ n.role }}{% endfor %}"
        "{{ messages|map(attribute='role')|list|length }}{% endfor %}"
        "{{ messages|tojson }}",
        bos=None,
        eos=None,
    )
    turns = [Message("user", "word " * 100), Message("assistant", "answer " * 100)] * 500
    prompt = template.render([*turns, Message("user", "x" * 1_000_000)], [], {})
    assert len(prompt) > 3_000_000


def test_ordinary_operations_pass():
    template = ChatTemplate(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 * 3 %}{{ m.content * 2 }}"
        "{{ '%s!' % m.role }}{{ '%s?'|format(m.role) }}{{ ['a', 'b']|join('-') }}{{ ', '.join(['c', 'd']) }}"
        "{{ 'a\nb'|indent(2) }}{{ 'xyx'|replace('x', 'z') }}{{ 'xyx'.replace('x', 'w') }}{{ ns.n % 4 }}"
        "{{ m|items|list|length }}{{ [3, 1]|sort|string }}"
        "{% for a, b in {'k': 1}|dictsort %}{{ a }}{{ b }}{% endfor %}"
        "{{ {'b': 1, 'a': 'ä<'}|tojson }}{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}"
        "{% endfor %}",
        bos=None,
        eos=None,
    )
    assert template.render([Message("user", "hi")], [], {}) == (
        'hihiuser!user?a-bc, da\n  bzyzwyw22[1, 3]k1{"b": 1, "a": "ä<"}{"a":2,"b":1}'
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("1 < 2 < 3", "True"),
        ("1 < 2 < 2", "False"),
        ("'a' == 'a' != 'b'", "True"),
        ("'a' in 'cab'", "True"),
        ("'a' not in ['b', 'a']", "False"),
        ("'k' in {'k': 1}", "True"),
        ("[1, [2]] == [1, [2]]", "True"),
        ("messages[0] == messages[-1]", "True"),
        ("missing == 'a'", "False"),
        ("missing is defined", "False"),
        ("2 is gt 1", "True"),
        ("2 is le(1)", "False"),
        ("'a' is in('abc')", "True"),
        ("messages|selectattr('role', 'equalto', 'user')|list|length", "1"),
        ("messages|rejectattr('role', 'in', ['user'])|list|length", "0"),
        ("'abc'[1:] ~ [1, 2, 3][:2]", "bc[1, 2]"),
        ("'ab' is lower", "True"),
        ("[3, 1]|max - 1", "2"),
        ("7 // 2 - 1.5", "1.5"),
        ("messages[0]['role'] ~ {'a' ~ 'b': 1}['ab'] ~ {}[nothing]", "user1"),
        ("[{'a': {'b': 2}}]|sum(attribute='a.b') + [1, 2]|sum", "5"),
        ("{'a': [1]}|tojson(separators=(',', ':'))", '{"a":[1]}'),
        ("'x' is filter", "False"),
    ],
)
def test_what_is_metered_means_what_it_meant(asked: str, said: str):
    template = ChatTemplate(SAYS + "{{ " + asked + " }}", bos=None, eos=None)
    assert template.render([Message("user", "hi ")], [], {}) == "hi " + said


def test_a_long_last_turn_is_no_bomb_where_each_turn_is_held_against_it():
    """As templates do that treat the last question in a special way."""
    template = ChatTemplate(
        "{% set asked = messages|selectattr('role', 'equalto', 'user')|list %}"
        "{% for m in messages %}{% if m == asked[-1] %}[last]{% endif %}"
        "{{ m.content.split('</think>')[-1].strip() if '</think>' in m.content else m.content }}{% endfor %}",
        bos=None,
        eos=None,
    )
    turns = [Message("user", "word"), Message("assistant", "answer")] * 500
    prompt = template.render([*turns, Message("user", "x" * 1_000_000)], [], {})
    assert prompt.endswith("answer[last]" + "x" * 1_000_000)


def test_jinja_s_whitespace_rules_are_those_of_the_conventions():
    template = ChatTemplate(
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n",
        bos=None,
        eos=None,
    )
    assert template.render([Message("user", "a"), Message("user", "b")], [], {}) == "a\nb\n"
