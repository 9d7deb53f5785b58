"""Chat templates run in a sandbox that meters what they do.

Templates come with downloaded models: they are programs of strangers. They reach
and change nothing but what a render is given, and pay for every step from a budget
that grows with the dialogue, so that none loops for ever or fills the memory:
steps of loops, calls, filters, comparisons, and each character that is built, copied or
printed. What has no price beforehand (padding, powers, long numbers, recursive loops,
other templates) is refused.
"""

import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any, Final, NoReturn, TypeAlias

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from cortex.text.budget import LONGEST_BITS, Budget, price, product, size_of, weights

# No template can write these names.
_BUDGET: Final = " budget"
_STEPS: Final = " steps"
_CONCAT: Final = " concat"
_COPIED: Final = " copied"
_COMPARED: Final = " compared"
_KEY: Final = " key"

# Filters that pass elements on without making text of them: priced by length alone.
_STRUCTURAL: Final = frozenset(
    {"attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reverse"}
    | {"slice"}
)
# Filters that try each element: what it is held against is paid for each time.
_TRYING: Final = frozenset({"reject", "rejectattr", "select", "selectattr"})
# Filters that compare: what parts share is looked at wherever it is.
_COMPARING: Final = frozenset({"dictsort", "groupby", "max", "min", "sort", "unique"})
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], object]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, items: item in items,
    "notin": lambda item, items: item not in items,
}
_COMPARING_TESTS: Final[Mapping[str, str]] = (
    dict.fromkeys(("==", "eq", "equalto"), "eq")
    | dict.fromkeys(("!=", "ne"), "ne")
    | dict.fromkeys(("<", "lt", "lessthan"), "lt")
    | dict.fromkeys(("<=", "le"), "lteq")
    | dict.fromkeys((">", "gt", "greaterthan"), "gt")
    | dict.fromkeys((">=", "ge"), "gteq")
    | {"in": "in"}
)
_LOOKING_TESTS: Final = frozenset({"lower", "upper"})
_SEEKING_TESTS: Final = frozenset({"filter", "test"})
# Filters that pick an attribute of each element: its name may be a long path.
_PICKING: Final = _TRYING | _COMPARING | {"join", "map", "sum"}
# Filters and methods whose numbers are widths: a small argument could make a huge text.
_WIDE_FILTERS: Final = frozenset({"batch", "center", "indent", "slice", "tojson"})
_WIDE_METHODS: Final = frozenset(
    {"center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}
)
_WIDEST: Final = 64
_UNPRICED: Final = frozenset({"pprint", "urlize", "wordwrap", "xmlattr"})  # no prompt needs them

_PER_CALL: Final = 4  # a call costs about as much time as four steps of a loop
_SEARCHING: Final = frozenset({"changed", "count", "index"})  # methods that compare

_Filter: TypeAlias = Callable[..., object]


class Refused(TemplateError):
    """The template's own `raise_exception`."""


class _Plain(ImmutableSandboxedEnvironment):
    """What may be touched, without a meter."""

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        wide = isinstance(obj, str) and attr in _WIDE_METHODS
        return not wide and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: object) -> None:
        """`format` is refused like the other wide methods, not wrapped."""


class Sandbox(_Plain):
    """The Hugging Face conventions, metered. `fill` renders what `compile_template` made."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=_printed
        )
        plain = _Plain()
        plain.filters["tojson"] = _tojson
        names = [name for name in plain.filters if name not in _UNPRICED]
        self.filters = {name: _metered(plain, name) for name in names}
        self.filters |= {_STEPS: _steps, _CONCAT: _concat, _COPIED: _copied, _COMPARED: _compared}
        self.filters[_KEY] = _key
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

    def getitem(self, obj: object, argument: object) -> object:
        return super().getitem(obj, _key(argument))

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:
        budget = _budget(__context)
        owner = getattr(__obj, "__self__", None)
        name = getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
            price(budget, name, owner, args)
        elif name in _SEARCHING:
            budget.weigh((args, [args] * size_of(owner)))
        elif name == "fromkeys" or __obj in (dict, Namespace):  # each part may be a key
            budget.weigh(args)
        # A key is looked at whole, however much of it is shared.
        budget.weigh([arg for arg in args if isinstance(arg, tuple)])
        budget.spend(_PER_CALL + size_of(owner) + sum(1 + size_of(arg) for arg in (*args, *kwargs.values())))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        budget = _budget(context)
        if any(isinstance(side, int) and side.bit_length() > LONGEST_BITS for side in (left, right)):
            raise SecurityError("it computes with very long numbers")
        if operator == "+":
            budget.spend(size_of(left) + size_of(right))
        elif operator == "*":
            budget.spend(product(left, right))
        elif operator == "**":
            raise SecurityError("it raises to a power")
        elif operator == "%" and isinstance(left, str):
            price(budget, "format", left, (right,))
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

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filter(node.node, _COPIED)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filter(node.key, _KEY)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        return _filter(nodes.List(sides, lineno=node.lineno), _COMPARED, [each.op for each in node.ops])

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if (word := _COMPARING_TESTS.get(node.name)) is None:
            if node.name in _LOOKING_TESTS:
                node.node = _filter(node.node, _COPIED)
            elif node.name in _SEEKING_TESTS:
                node.node = _filter(node.node, _KEY)
            return node
        if len(node.args) != 1 or node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise SecurityError(f"it asks 'is {node.name}' of something other than one value")
        return _filter(nodes.List([node.node, *node.args], lineno=node.lineno), _COMPARED, [word])

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        # As an expression it goes through `_printed`, where a loop pays for it each time.
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Include(self, node: nodes.Node) -> NoReturn:
        raise SecurityError("it loads another template")

    visit_Import = visit_FromImport = visit_Extends = visit_Include


def _filter(node: nodes.Node, name: str, words: Sequence[str] = ()) -> nodes.Filter:
    args: list[nodes.Expr] = [nodes.Const(word, lineno=node.lineno) for word in words]
    return nodes.Filter(node, name, args, [], None, None, lineno=node.lineno)


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


@pass_context
def _copied(context: Context, value: object) -> object:
    _budget(context).spend(size_of(value))
    return value


def _key(value: object) -> object:
    """What is looked up by. A tuple is as endless as its parts, and no prompt needs one here."""
    if isinstance(value, Sized) and not isinstance(value, str | bytes | Undefined):
        raise SecurityError("it looks something up by a tuple or a list")
    return value


@pass_context
def _compared(context: Context, sides: Sequence[object], *operators: str) -> object:
    budget = _budget(context)
    holds: object = True
    for word, left, right in zip(operators, sides, sides[1:], strict=False):
        if word in ("in", "notin"):
            budget.seek(left, right)
        else:
            budget.match(left, right)
        holds = _OPERATORS[word](left, right)
        if not holds:
            break
    return holds


def _metered(plain: ImmutableSandboxedEnvironment, name: str) -> _Filter:
    """The filter `name`, paid for before it runs."""

    @pass_context
    def run(context: Context, value: object, *args: object, **kwargs: object) -> object:
        budget = _budget(context)
        if isinstance(value, Iterator):
            value = list(value)
        given = (*args, *kwargs.values())
        _refuse_unpriced(name, args, kwargs)
        if name in _PICKING:
            steps = sum(arg.count(".") + arg.count(",") for arg in given if isinstance(arg, str))
            budget.spend(size_of(value) * steps)
        budget.weigh([arg for arg in given if isinstance(arg, tuple)])
        numbers = [arg for arg in given if isinstance(arg, int)]
        if name in _WIDE_FILTERS and max(numbers, default=0) > _WIDEST:
            raise SecurityError(f"it gives the filter {name!r} a width above {_WIDEST}")
        if name in _STRUCTURAL:
            budget.spend(_PER_CALL + size_of(value))
        elif name in _TRYING:
            against = (args, *kwargs.values())
            budget.weigh(against)  # in steps: it may share parts
            budget.spend(_PER_CALL + size_of(value) * sum(weights(against)))
        elif name in _COMPARING:
            budget.weigh((value, args))
        else:
            price(budget, name, value, given)
        return plain.call_filter(name, value, args, kwargs, context=context)

    return run


def _refuse_unpriced(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raises for arguments that no prompt needs, and whose price is not known."""
    if name == "sum" and not isinstance(kwargs.get("start", [*args, 0, 0][1]), int | float):
        raise SecurityError("it adds up what are no numbers")
    if name == "attr" and not all(isinstance(arg, str) for arg in args):
        raise SecurityError("it names an attribute by what is no text")
    if name == "replace" and kwargs:
        raise SecurityError("it names what it replaces by keyword")
    if name == "tojson" and not isinstance(kwargs.get("indent", [*args, 0, 0][1]), int | None):
        raise SecurityError("it indents JSON by what is no number")


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


@pass_context
def _raise_exception(context: Context, message: object) -> NoReturn:
    _budget(context).weigh(message)
    raise Refused(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > _WIDEST or any(char.isdigit() for char in form):
        raise SecurityError("it formats a date to a width")
    return datetime.now().strftime(form)
