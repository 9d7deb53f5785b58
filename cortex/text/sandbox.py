"""Chat templates run in a sandbox that meters what they do.

Templates come with downloaded models: they are programs of strangers. They reach
and change nothing but what a render is given, and pay for every step from a budget
that grows with the dialogue, so that none loops for ever or fills the memory:
steps of loops, calls, filters, and each character that is built or printed. What
has no price beforehand (padding, powers, recursive loops, other templates) is refused.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn, TypeAlias

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

# No template can write these names.
_BUDGET: Final = " budget"
_STEPS: Final = " steps"
_CONCAT: Final = " concat"

# Filters that pass elements on without making text of them: priced by length alone.
_STRUCTURAL: Final = frozenset(
    {"attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "last", "length"}
    | {"list", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "slice"}
    | {"sort", "unique"}
)
# Filters and methods whose numbers are widths: a small argument could make a huge text.
_WIDE_FILTERS: Final = frozenset({"batch", "center", "indent", "slice", "tojson"})
_WIDE_METHODS: Final = frozenset(
    {"center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}
)
_WIDEST: Final = 64
_LONGEST_BITS: Final = 1024
_UNPRICED: Final = frozenset({"urlize", "wordwrap", "xmlattr"})  # no prompt needs them

# An honest render costs about ten units for each character of the dialogue, and a
# hostile one spends the floor in a few seconds.
_FLOOR: Final = 2_000_000
_PER_UNIT: Final = 64
_PER_CALL: Final = 4  # a call costs about as much time as four steps of a loop

_Filter: TypeAlias = Callable[..., object]


class Refused(TemplateError):
    """The template's own `raise_exception`."""


@dataclass(slots=True)
class Budget:
    """What one render may still spend; a unit is a step or a character."""

    left: int

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise SecurityError("it does far more work than its messages can need")

    def weigh(self, value: object) -> None:
        """Pay for `value` as text, however often parts of it are shared."""
        for units in _weights(value):
            self.spend(units)

    @classmethod
    def for_facts(cls, facts: Mapping[str, object]) -> "Budget":
        """What any honest render of `facts` gets along with."""
        return cls(_FLOOR + _PER_UNIT * sum(_weights(facts)))


class _Plain(ImmutableSandboxedEnvironment):
    """What may be touched, without a meter."""

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        wide = isinstance(obj, str) and attr in _WIDE_METHODS
        return not wide and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: object) -> None:
        """`format` is refused like the other wide methods, not wrapped."""


class Sandbox(_Plain):
    """The Hugging Face conventions, metered. `fill` renders what `compile_template` made."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=_printed
        )
        plain = _Plain()
        plain.filters["tojson"] = _tojson
        names = [name for name in plain.filters if name not in _UNPRICED]
        self.filters = {name: _metered(plain, name) for name in names}
        self.filters |= {_STEPS: _steps, _CONCAT: _concat}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def compile_template(self, source: str) -> Template:
        """The template of `source`, with its meters. Raises what Jinja and Python raise."""
        tree = _Meter().visit(self.parse(source))
        tree.set_environment(self)
        return self.from_string(tree)

    def fill(self, template: Template, facts: Mapping[str, object]) -> str:
        """The rendered text. Raises SecurityError when it touches or spends too much."""
        return template.render({**facts, _BUDGET: Budget.for_facts(facts)})

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:
        budget = _budget(__context)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
            _price(budget, getattr(__obj, "__name__", ""), owner, args)
        budget.spend(_PER_CALL)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        budget = _budget(context)
        if operator == "+":
            budget.spend(_size(left) + _size(right))
        elif operator == "*":
            budget.spend(_product(left, right))
        elif operator == "**":
            raise SecurityError("it raises to a power")
        elif isinstance(left, str):
            _price(budget, "format", left, (right,))
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is a block."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - Jinja reads it from the class

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Meter(NodeTransformer):
    """Puts a price on loops, `~` and constant text, and refuses what has none."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise SecurityError("it has a recursive loop")
        self.generic_visit(node)
        node.iter = _filter(node.iter, _STEPS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        # As an expression it goes through `_printed`, where a loop pays for it each time.
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Include(self, node: nodes.Node) -> NoReturn:
        raise SecurityError("it loads another template")

    visit_Import = visit_FromImport = visit_Extends = visit_Include


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _budget(context: Context) -> Budget:
    budget: Budget = context[_BUDGET]
    return budget


@pass_context
def _printed(context: Context, value: object) -> object:
    _budget(context).weigh(value)
    return value


@pass_context
def _steps(context: Context, items: Iterable[object]) -> Iterator[object]:
    budget = _budget(context)
    for item in items:
        budget.spend(1)
        yield item


@pass_context
def _concat(context: Context, items: list[object]) -> str:
    _budget(context).weigh(items)
    return "".join(map(str, items))


def _metered(plain: ImmutableSandboxedEnvironment, name: str) -> _Filter:
    """The filter `name`, paid for before it runs."""

    @pass_context
    def run(context: Context, value: object, *args: object, **kwargs: object) -> object:
        budget = _budget(context)
        if isinstance(value, Iterator):
            value = list(value)
        numbers = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, int)]
        if name in _WIDE_FILTERS and max(numbers, default=0) > _WIDEST:
            raise SecurityError(f"it gives the filter {name!r} a width above {_WIDEST}")
        if name in _STRUCTURAL:
            budget.spend(_PER_CALL + _size(value))
        else:
            _price(budget, name, value, (*args, *kwargs.values()))
        return plain.call_filter(name, value, args, kwargs, context=context)

    return run


def _price(budget: Budget, name: str, value: object, args: tuple[object, ...]) -> None:
    """Pay for a text operation: what goes in, and what its arguments multiply."""
    budget.weigh((value, args))
    texts = [arg for arg in args if isinstance(arg, str)]
    if name == "format" and any(char.isdigit() or char == "*" for char in str(value)):
        raise SecurityError("it formats to a width")
    if name == "replace" and len(texts) > 1:
        budget.spend(str(value).count(texts[0]) * len(texts[1]))
    elif name == "join":  # the glue is the argument of the filter, the owner of the method
        budget.spend(_size(value) * max(map(_size, args), default=0))
    elif name == "indent":
        budget.spend((str(value).count("\n") + 1) * sum(map(len, texts)))


def _weights(value: object) -> Iterator[int]:
    """The units of `value` as text: a shared part counts wherever it is."""
    stack = [value]
    while stack:
        item = stack.pop()
        yield len(item) + 1 if isinstance(item, str) else 1
        if isinstance(item, Namespace):
            raise SecurityError("it makes text of a namespace")
        if isinstance(item, Mapping):
            stack += item.values()
        if isinstance(item, Collection) and not isinstance(item, str):
            stack += item


def _size(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _product(left: object, right: object) -> int:
    """What `left * right` costs: of numbers little, unless they get very long."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _LONGEST_BITS:
            raise SecurityError("it computes with very long numbers")
        return 1
    times = max((side for side in (left, right) if isinstance(side, int)), default=0)
    return max(times, 0) * max(_size(left), _size(right))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates of models expect it: not escaped for HTML, unlike Jinja's own."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
