"""Whatever a model would rather say, what it may say is what its schema accepts.

Tokens are drawn by chance from those allowed: a wilder model than any that has weights. What it came
to is judged by a validator of somebody else's.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cortex.ask import Json, Shape, Spelling, Tool
from cortex.errors import BadAsk, Unsupported
from cortex.events import Text
from cortex.harness.exllamav2.grammar import SCHEMAS_KEPT, Grammar, Grammars
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.text.toolcalls import CallForm, beside, force, reader
from tests.test_exllamav2_vocabulary import BYTES, KINDS, byte_level, folder_of

SCHEMAS: dict[str, dict[str, Json]] = json.loads(
    (Path(__file__).parent / "golden" / "schemas.json").read_text()
)
ENDS = {"eos_token_id": [0, 1]}


@pytest.fixture(scope="module", params=["byte level", "llama 2"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("known")
    return Vocabulary.read(folder_of(KINDS[request.param](), folder, config=ENDS))


@pytest.fixture(scope="module")
def grammars(known: Vocabulary) -> Grammars:
    return Grammars(known)


def allowed(grammar: Grammar) -> list[int]:
    bits = grammar.allowed()
    return [at * 8 + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1]


def walk(grammar: Grammar, known: Vocabulary, source: random.Random, most: int = 400) -> bytes | None:
    """What came of tokens drawn by chance, ended as soon as possible; None when it ran on."""
    said = b""
    for _ in range(most):
        tokens = allowed(grammar)
        assert tokens
        assert max(tokens) < known.size
        ends = known.eos.intersection(tokens)
        assert ends in (frozenset(), known.eos)
        token = min(ends) if ends else source.choice(tokens)
        grammar.accept(token)
        assert grammar.fault is None
        if ends:
            return said
        said += known.piece(token)
    return None


def written(known: Vocabulary, text: str) -> tuple[int, ...]:
    """`text` with no token of its own for any of it: the blank that is put first is left out."""
    tokens = known.encode(text)
    return tokens[1:] if known.blank_first and known.piece(tokens[0]) == b" " else tokens


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_held_to_the_letter(grammars: Grammars, known: Vocabulary, name: str) -> None:
    schema = SCHEMAS[name]
    said = [
        walk(grammars.grammar(Shape("json_schema", schema)), known, random.Random(seed)) for seed in range(12)
    ]
    ended = [text for text in said if text is not None]
    assert ended
    for text in ended:
        jsonschema.validate(json.loads(text), schema)
        assert b"\n" not in text


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_the_validator_refuses_cannot_be_said(grammars: Grammars, known: Vocabulary, name: str) -> None:
    schema = SCHEMAS[name]
    for value in ({"stray": [1]}, [[]], "stray", 17.5, None):
        try:
            jsonschema.validate(value, schema)
        except jsonschema.ValidationError:
            grammar = grammars.grammar(Shape("json_schema", schema))
            for token in written(known, json.dumps(value)):
                if token not in allowed(grammar):
                    break
                grammar.accept(token)
            else:
                assert not known.eos.intersection(allowed(grammar)), value


def test_any_object_is_an_object_and_nothing_else(grammars: Grammars, known: Vocabulary) -> None:
    for seed in range(20):
        said = walk(grammars.grammar(Shape("json_object")), known, random.Random(seed))
        assert said is None or isinstance(json.loads(said), dict)
    assert b"{" in {known.piece(token)[:1] for token in allowed(grammars.grammar(Shape("json_object")))}


def test_blanks_are_single_and_nothing_else_is_between_values(grammars: Grammars, known: Vocabulary) -> None:
    grammar = grammars.grammar(Shape("json_object"))
    for token in written(known, '{"a": [1, {"b": 2'):
        assert token in allowed(grammar)
        grammar.accept(token)
    for text in ("\n", "\t", "  "):
        assert written(known, text)[0] not in allowed(grammar) or known.piece(written(known, text)[0]) == b" "


def test_the_end_is_every_token_that_ends_an_answer_and_nothing_follows(
    grammars: Grammars, known: Vocabulary
) -> None:
    grammar = grammars.grammar(Shape("json_schema", {"const": 1}))
    for token in written(known, "1"):
        grammar.accept(token)
    assert set(allowed(grammar)) == known.eos
    assert len(known.eos) == 3
    grammar.accept(max(known.eos))
    assert set(allowed(grammar)) == known.eos
    assert grammar.fault is None


def test_a_string_that_is_spelt_like_a_special_token_is_said_in_letters(tmp_path: Path) -> None:
    """As that token it would be hidden from the answer; without weights it could not be said at all."""
    made = byte_level()
    made.add_special_tokens(["<pad>"])
    files = {"config": {"vocab_size": made.get_vocab_size() - 1, **ENDS}}
    vocabulary = Vocabulary.read(folder_of(made, tmp_path, **files))
    grammars = Grammars(vocabulary)
    for word in ("a<|im_end|>b", "<|im_start|>", "<pad>"):
        said = walk(grammars.grammar(Shape("json_schema", {"const": word})), vocabulary, random.Random(1))
        assert said == json.dumps(word).encode()


def test_what_must_come_comes_as_the_model_would_read_it(grammars: Grammars, known: Vocabulary) -> None:
    """Not letter by letter: models seldom see words in pieces."""
    grammar = grammars.grammar(Shape("json_schema", {"const": "the quick brown fox"}))
    for token in written(known, '"the quick brown fox"'):
        assert allowed(grammar) == [token]
        grammar.accept(token)


def test_special_tokens_are_no_letters_of_a_string(grammars: Grammars, known: Vocabulary) -> None:
    grammar = grammars.grammar(Shape("json_schema", {"type": "string"}))
    for token in written(known, '"a'):
        grammar.accept(token)
    assert not known.specials.intersection(allowed(grammar))


NOW = Tool(
    "now",
    parameters={"type": "object", "properties": {"zone": {"enum": ["utc", "cet"]}}, "required": ["zone"]},
)
PATH = Tool(
    "walk",
    parameters={
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/point"}},
        "required": ["to"],
        "additionalProperties": False,
        "$defs": {
            "point": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 9},
                "maxItems": 2,
            }
        },
    },
)
BARE = Tool("stop")


@pytest.mark.parametrize("form", ["hermes", "qwen_xml", "mistral", "mistral_args", "llama"])
@pytest.mark.parametrize("name", [None, "walk"])
def test_a_forced_call_is_one_that_its_tools_accept(
    grammars: Grammars, known: Vocabulary, form: CallForm, name: str | None
) -> None:
    shape = force(form, (NOW, PATH, BARE), name).shape
    ended = 0
    for seed in range(12):
        said = walk(grammars.grammar(shape), known, random.Random(seed))
        if said is not None:
            ended += 1
            jsonschema.validate(json.loads(said), shape.schema)
    assert ended


ANSWER = Shape(
    "json_schema",
    {
        "type": "object",
        "properties": {
            "sum": {"$ref": "#/$defs/sum"},
            "said": {"const": "<tool_call>[TOOL_CALLS]<|im_start|>"},
        },
        "required": ["sum", "said"],
        "additionalProperties": False,
        "$defs": {"sum": {"enum": [1, 2]}},
    },
)


@pytest.mark.parametrize("form", ["hermes", "qwen_xml", "llama", "mistral_list", "mistral_args"])
def test_what_comes_is_an_answer_or_calls_and_nothing_else(
    grammars: Grammars, known: Vocabulary, form: CallForm
) -> None:
    tools = tuple(replace(tool, strict=True) for tool in (NOW, PATH))
    shape = beside(form, tools, ANSWER)
    come: set[str] = set()
    for seed in range(40):
        said = walk(grammars.grammar(shape), known, random.Random(seed))
        if said is None:
            continue
        reading = reader(form, tools, lambda: "0" * 24)
        reading.lead()
        calls, text = [], ""
        for piece in (*reading.feed(said.decode()), *reading.flush()):
            if isinstance(piece, Text):
                text += piece.text
            else:
                calls.append(piece)
        assert bool(text) != bool(calls), said
        if text:
            jsonschema.validate(json.loads(text), ANSWER.schema)
            come.add("answer")
        for call in calls:
            (tool,) = (tool for tool in tools if tool.name == call.name)
            jsonschema.validate(json.loads(call.arguments), tool.parameters)
            come.add("calls" if len(calls) > 1 else "call")
    assert come >= {"answer", "call"}


def test_any_object_may_stand_beside_calls(grammars: Grammars, known: Vocabulary) -> None:
    shape = beside("hermes", (NOW, BARE), Shape("json_object"))
    for text in (
        '{"a": [1, {"b": null}]}',
        '<tool_call>\n{"name": "stop", "arguments": {"x": "y"}}\n</tool_call>',
    ):
        grammar = grammars.grammar(shape)
        for token in written(known, text):
            assert token in allowed(grammar), text
            grammar.accept(token)
        assert known.eos.intersection(allowed(grammar)), text
    for text in ("[1]", "Sure! {", "<tool_call>\n{}", '<tool_call>\n{"name": "nobody'):
        grammar = grammars.grammar(shape)
        said = list(written(known, text))
        while said and said[0] in allowed(grammar):
            grammar.accept(said.pop(0))
        assert said, text


def test_a_marker_that_is_a_special_token_may_be_said_as_that_token_or_in_letters(
    grammars: Grammars, known: Vocabulary
) -> None:
    """Models were taught the token; as letters it is a call all the same."""
    (marker,) = (token for token in known.specials if known.piece(token) == b"<|im_start|>")
    shape = replace(ANSWER, calls=(Spelling(("<|im_start|>",), {"const": 1}, ("<|im_end|>",)),))
    begun = grammars.grammar(shape)
    assert marker in allowed(begun)
    begun.accept(marker)
    assert {known.piece(token) for token in allowed(begun)} == {b"1"}
    letters = grammars.grammar(shape)
    letters.accept(
        next(token for token in allowed(letters) if token != marker and known.piece(token) == b"<")
    )
    assert letters.fault is None


def test_an_error_names_the_field_that_the_caller_has(grammars: Grammars) -> None:
    for schema, kind in (({"not": {"type": "string"}}, Unsupported), ({"const": "a\ud800"}, BadAsk)):
        with pytest.raises(kind, match=r"'text\.format'") as caught:
            grammars.grammar(Shape("json_schema", schema, param="text.format"))
        assert caught.value.param == "text.format"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://example.com/schema"},
        {"type": "string", "pattern": "(("},
        {"type": "string", "pattern": "^(?=x)"},
        {"type": "string", "format": "nonsense"},
        {"type": 7},
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"if": {"type": "string"}, "then": {"maxLength": 3}},
        {"type": "string", "minLength": 5, "maxLength": 2},
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name_however_often(grammars: Grammars, schema: Json) -> None:
    for _ in range(2):
        with pytest.raises(Unsupported, match="response_format") as caught:
            grammars.grammar(Shape("json_schema", schema))
        assert caught.value.param == "response_format"
        assert "\n" not in caught.value.message


def test_a_schema_that_would_be_lenient_with_itself_is_not(grammars: Grammars) -> None:
    """The caller's own word to the grammar's compiler would let keywords be ignored in silence."""
    schema = {"not": {"type": "string"}, "x-guidance": {"lenient": True}}
    with pytest.raises(Unsupported):
        grammars.grammar(Shape("json_schema", schema))


@pytest.mark.parametrize("schema", [{"const": "a\ud800"}, {"enum": ["\udfff"]}])
def test_half_of_a_surrogate_pair_is_refused(grammars: Grammars, schema: Json) -> None:
    with pytest.raises(BadAsk) as caught:
        grammars.grammar(Shape("json_schema", schema))
    assert caught.value.param == "response_format"


def deep(levels: int) -> dict[str, Json]:
    schema: dict[str, Json] = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def test_a_schema_beyond_all_measure_is_refused_or_compiled(grammars: Grammars) -> None:
    """Fault row 49: the schema is the caller's."""
    wide = {"enum": [f"word {number}" for number in range(20_000)]}
    for schema in (deep(60), deep(5000), wide, {"type": "string", "pattern": "(a{1,900}){1,900}"}):
        try:
            grammars.grammar(Shape("json_schema", schema)).allowed()
            strict = Tool("deep", parameters=schema, strict=True)
            grammars.grammar(beside("hermes", (strict,), Shape("json_schema", schema))).allowed()
        except Unsupported as error:
            assert error.param == "response_format"


def test_jobs_with_the_same_schema_walk_through_it_apart(grammars: Grammars, known: Vocabulary) -> None:
    shape = Shape("json_schema", {"enum": ["ab", "cd"]})
    first, second = grammars.grammar(shape), grammars.grammar(shape)
    for token in written(known, '"ab"'):
        first.accept(token)
    assert set(allowed(first)) == known.eos
    assert not known.eos.intersection(allowed(second))
    assert known.piece(allowed(grammars.grammar(shape))[0])[:1] == b'"'


def test_a_schema_is_compiled_once_and_the_oldest_are_forgotten(
    known: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = Grammars(known)
    compiled: list[str] = []
    compile_ = Grammars._compile

    def counted(self: Grammars, text: str, shape: Shape) -> object:
        compiled.append(text)
        return compile_(self, text, shape)

    monkeypatch.setattr(Grammars, "_compile", counted)
    shapes = [Shape("json_schema", {"const": f"kept {number}"}) for number in range(SCHEMAS_KEPT + 1)]
    *kept, last = shapes
    for _ in range(2):
        for shape in (*kept, kept[5], kept[0]):
            grammars.grammar(shape)
        assert len(compiled) == SCHEMAS_KEPT
    grammars.grammar(last)
    grammars.grammar(kept[0])  # used not long ago
    assert len(compiled) == SCHEMAS_KEPT + 1
    grammars.grammar(kept[1])
    assert len(compiled) == SCHEMAS_KEPT + 2


def test_a_token_that_was_not_allowed_ends_the_walk_with_a_fault(
    grammars: Grammars, known: Vocabulary
) -> None:
    grammar = grammars.grammar(Shape("json_object"))
    grammar.accept(written(known, "x")[0])
    assert grammar.fault is not None
    assert "\n" not in grammar.fault
    grammar.allowed()


def test_without_a_token_that_ends_an_answer_there_is_no_schema(tmp_path: Path) -> None:
    told = json.loads(byte_level().to_str())
    told["added_tokens"] = []
    vocabulary = Vocabulary.read(folder_of(json.dumps(told), tmp_path))
    assert not vocabulary.eos
    with pytest.raises(Unsupported, match="ends an answer"):
        Grammars(vocabulary).grammar(Shape("json_object"))


def test_a_letter_that_the_vocabulary_cannot_write_is_a_fault_where_it_must_come(tmp_path: Path) -> None:
    """A vocabulary without bytes lacks letters."""
    told = json.loads(KINDS["gemma"]().to_str())
    words = told["model"]["vocab"]
    told["model"]["vocab"] = {
        word: id_ for word, id_ in words.items() if word not in BYTES and "😀" not in word
    }
    told["model"]["byte_fallback"] = False
    told["model"]["merges"] = []
    vocabulary = Vocabulary.read(folder_of(json.dumps(told), tmp_path, config=ENDS))
    grammars = Grammars(vocabulary)
    grammar = grammars.grammar(Shape("json_schema", {"const": "a😀"}))
    said = b""
    while (tokens := allowed(grammar)) and grammar.fault is None:
        said += vocabulary.piece(tokens[0])
        grammar.accept(tokens[0])
    assert said == b'"a'
    assert vocabulary.eos.issuperset(tokens)
    with pytest.raises(Unsupported, match="begin"):
        grammars.grammar(Shape("json_schema", {"const": 12}))
