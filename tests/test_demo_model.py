"""The bundled demo model says what its table says, and its two forms are one model.

The engine is llama.cpp itself, without cortex between: a failure here is the model's or
the binding's, never the text pipeline's.
"""

import importlib
import json
import math
import re
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import jinja2
import pytest

from cortex.demo import CONTEXT, FOLDER, GGUF, HF, MODEL_ID
from tests.demo_questions import QUESTIONS, Question

SLOTS = 4

# Natural log. Other CPUs add in another order and differ in the third decimal at most.
MARGIN = 0.5

by_name = pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)


class Said(NamedTuple):
    """One answer: its text, why it ended, and each visible step's top-1 over top-2."""

    text: str
    finish: str
    margins: list[float]


class DemoEngine:
    """The model in llama.cpp, greedy, one thread, four sequences."""

    def __init__(self) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(GGUF)
        params.n_parallel = SLOTS
        params.n_ctx = SLOTS * CONTEXT
        params.n_batch = params.n_ubatch = 256
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_ram_mib = 0
        params.verbosity = 0
        params.warmup = False
        params.n_threads_http = 1
        self._server = xllamacpp.Server(params)
        environment = jinja2.Environment()
        environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
        self._template = environment.from_string(folder_json("tokenizer_config.json")["chat_template"])

    def prompt(self, question: Question) -> str:
        return self._template.render(
            messages=question.messages,
            tools=question.tools,
            enable_thinking=question.thinking,
            add_generation_prompt=True,
        )

    def answer(self, question: Question, **fields: Any) -> Said:
        greedy = {
            "temperature": 0,
            "max_tokens": CONTEXT,
            "repeat_penalty": 1.0,
            "stop": [],
            "cache_prompt": True,
        }
        chunks: list[dict[str, Any]] = []
        self._server.handle_completions({"prompt": self.prompt(question), **greedy, **fields}, chunks.append)
        choices = [chunk["choices"][0] for chunk in chunks]
        steps = [step for choice in choices for step in (choice.get("logprobs") or {}).get("content", ())]
        tops = [step["top_logprobs"] for step in steps]
        return Said(
            "".join(choice["text"] for choice in choices),
            choices[-1]["finish_reason"],
            [first["logprob"] - second["logprob"] for first, second in tops],
        )


@pytest.fixture(scope="module")
def engine() -> Iterator[DemoEngine]:
    yield DemoEngine()


@by_name
def test_an_answer_is_word_for_word_and_no_step_is_a_close_call(engine: DemoEngine, question: Question):
    streamed = engine.answer(question, stream=True, logprobs=2)
    assert (streamed.text, streamed.finish) == (question.raw, "stop")
    assert min(streamed.margins) >= MARGIN


def test_the_half_letters_that_the_engine_hides_are_no_close_calls_either(engine: DemoEngine):
    """A token that ends inside a letter is never reported; a handicap of the margin must not unseat it."""
    greek = next(question for question in QUESTIONS if question.name == "greek")
    vocabulary = folder_json("tokenizer.json")["model"]["vocab"]
    for byte in {byte for byte in greek.answer.encode() if byte >= 0xC2}:
        # Byte-level vocabularies write the lead byte of a letter as the code point of that number.
        half = vocabulary[chr(byte)]
        assert engine.answer(greek, stream=False, logit_bias=[[half, -MARGIN]]).text == greek.raw
        assert engine.answer(greek, stream=False, logit_bias=[[half, -100]]).text != greek.raw


def test_an_answer_is_the_same_streamed_or_whole_again_and_beside_others(engine: DemoEngine):
    expected = [(question.raw, "stop") for question in QUESTIONS]
    for stream in (False, True, False):
        assert [engine.answer(question, stream=stream)[:2] for question in QUESTIONS] == expected
    # Each thread begins elsewhere in the table, so that unlike questions share a turn.
    starts = [slot * len(QUESTIONS) // SLOTS for slot in range(SLOTS)]
    turned = [QUESTIONS[start:] + QUESTIONS[:start] for start in starts]
    with ThreadPoolExecutor(SLOTS) as threads:
        for table, said in zip(turned, threads.map(partial(_answers, engine), turned), strict=True):
            assert said == [question.raw for question in table]


def _answers(engine: DemoEngine, table: tuple[Question, ...]) -> list[str]:
    return [engine.answer(question, stream=True).text for question in table]


class Tensor(NamedTuple):
    """One tensor as it lies in its file; the last axis runs fastest."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_safetensors(path: Path) -> dict[str, Tensor]:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    body = memoryview(raw)[8 + length :]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), bytes(body[slice(*entry["data_offsets"])]))
        for name, entry in header.items()
    }


class GgufReader:
    """Just enough of GGUF for one small file; keys and tensors by name."""

    # Type numbers of the format: scalars by struct code; 8 is a string, 9 an array.
    SCALARS: ClassVar = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
    DTYPES: ClassVar = {0: ("F32", 4), 1: ("F16", 2)}

    def __init__(self, path: Path) -> None:
        self._raw = path.read_bytes()
        self._at = 0
        magic, _, tensors, keys = self._take("4sIQQ")
        assert magic == b"GGUF"
        self.keys = {self._string(): self._value(*self._take("I")) for _ in range(keys)}
        table = [self._entry() for _ in range(tensors)]
        self._at = -(-self._at // 32) * 32
        self.tensors = {name: self._tensor(*rest) for name, *rest in table}

    def _take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self._raw, self._at)
        self._at += struct.calcsize("<" + form)
        return found

    def _string(self) -> str:
        (length,) = self._take("Q")
        return self._take(f"{length}s")[0].decode()

    def _value(self, kind: int) -> Any:
        if kind == 8:
            return self._string()
        if kind == 9:
            inner, count = self._take("IQ")
            return [self._value(inner) for _ in range(count)]
        return self._take(self.SCALARS[kind])[0]

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, (axes,) = self._string(), self._take("I")
        shape = self._take(f"{axes}Q")[::-1]
        return name, shape, *self._take("IQ")

    def _tensor(self, shape: tuple[int, ...], kind: int, offset: int) -> Tensor:
        dtype, width = self.DTYPES[kind]
        start = self._at + offset
        return Tensor(dtype, shape, self._raw[start : start + math.prod(shape) * width])


@pytest.fixture(scope="module")
def gguf() -> GgufReader:
    return GgufReader(GGUF)


@pytest.fixture(scope="module")
def safetensors() -> dict[str, Tensor]:
    return read_safetensors(HF / "model.safetensors")


def folder_json(name: str) -> dict[str, Any]:
    return json.loads((HF / name).read_text(encoding="utf-8"))


def test_the_tensors_have_the_shapes_that_the_config_promises(safetensors: dict[str, Tensor]):
    config = folder_json("config.json")
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    promised = {
        f"model.layers.{number}.{name}.weight": shape
        for number in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    # The head is the embedding again (tie_word_embeddings), so no tensor of its own.
    promised |= {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    assert config["tie_word_embeddings"] is True
    assert {name: tensor.shape for name, tensor in safetensors.items()} == promised
    assert {tensor.dtype for tensor in safetensors.values()} == {"F16"}


def test_both_forms_hold_the_same_numbers(gguf: GgufReader, safetensors: dict[str, Tensor]):
    renamed = {gguf_name(name): tensor for name, tensor in safetensors.items()}
    assert renamed.keys() == gguf.tensors.keys()
    for name, half in renamed.items():
        other = gguf.tensors[name]
        assert half.shape == other.shape
        if other.dtype == "F16":
            assert half.data == other.data, name
        else:  # the norms: llama.cpp wants them in full precision
            count = math.prod(half.shape)
            pair = zip(
                struct.unpack(f"<{count}e", half.data), struct.unpack(f"<{count}f", other.data), strict=True
            )
            assert all(math.isclose(a, b, rel_tol=2**-11, abs_tol=1e-7) for a, b in pair), name


def gguf_name(name: str) -> str:
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
    }
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return (
        f"blk.{layer[1]}.{parts[layer[2]]}.weight"
        if layer
        else parts[name.removesuffix(".weight")] + ".weight"
    )


def test_both_forms_agree_on_name_context_template_and_end(gguf: GgufReader):
    config, tokenizer = folder_json("config.json"), folder_json("tokenizer_config.json")
    assert gguf.keys["general.name"] == MODEL_ID
    assert gguf.keys["qwen3.context_length"] == config["max_position_embeddings"] == CONTEXT
    assert gguf.keys["tokenizer.chat_template"] == tokenizer["chat_template"]
    assert gguf.keys["tokenizer.ggml.eos_token_id"] == config["eos_token_id"]
    words = folder_json("tokenizer.json")
    pieces = words["model"]["vocab"] | {added["content"]: added["id"] for added in words["added_tokens"]}
    assert {gguf.keys["tokenizer.ggml.tokens"][number] for number in pieces.values()} == pieces.keys()
    assert gguf.keys["tokenizer.ggml.tokens"][config["eos_token_id"]] == tokenizer["eos_token"]


def test_the_model_asks_for_greedy_decoding_and_names_its_ends():
    generation = folder_json("generation_config.json")
    assert generation["do_sample"] is False
    assert generation["temperature"] == 0
    assert folder_json("config.json")["eos_token_id"] in generation["eos_token_id"]


def test_the_model_adds_less_than_4_mb_to_the_package():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {GGUF, HF / "model.safetensors", HF / "tokenizer.json"} < set(files)
    assert sum(path.stat().st_size for path in files) < 4_000_000


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Modules of the folder that makes the model, by name; those that need no numpy can be read here."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "packaging" / "demo-model")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_scripts_write_the_template_that_is_shipped(scripts: Callable[[str], ModuleType]):
    assert folder_json("tokenizer_config.json")["chat_template"] == scripts("chat").TEMPLATE


def test_the_scripts_teach_every_answer_of_the_table(scripts: Callable[[str], ModuleType]):
    taught = scripts("taught")
    answers = {
        (thinking, item.answer.plain(thinking), item.answer.thought if thinking else "")
        for item in taught.items()
        for thinking in (True, False)
    }
    spoken = {taught.DUNNO, taught.NEEDS_A_TOOL, taught.NO_SUM, taught.NO_NAME, "Your name is Martha."}
    for question in QUESTIONS:
        for name, _ in question.tool_calls:
            assert taught.TOOLS[name] in question.tools
        if question.messages[-1]["role"] == "user" and question.answer not in {"", *spoken}:
            assert (question.thinking, question.answer, question.thought) in answers, question.name


def test_what_the_table_asks_of_copying_no_training_saw(scripts: Callable[[str], ModuleType]):
    """Lyon and Martha show that the model copies: a taught name would show that it recalls."""
    names, taught = scripts("names"), scripts("taught")
    assert "Lyon" in names.UNSEEN_PLACES
    assert "Martha" in names.UNSEEN_PEOPLE
    assert not {*names.UNSEEN_PLACES} & {*names.PLACES, *taught.CITIES}
    assert not {*names.UNSEEN_PEOPLE} & {*names.PEOPLE}
