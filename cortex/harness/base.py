"""The seam to engines: plain data in, plain data out.

An `Engine` is one loaded model. It is blocking, and only its device's thread
touches it. Everything that crosses the seam is a frozen value of this file or of
`events`, so that the same contract can be carried to another process.

A kind of engine is a `Harness`: it says whether it can run here, refuses a file
before any native code sees it, and loads. `tests/contract` holds both to this page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from cortex.ask import Ask, Sampling, Shape
from cortex.events import EngineEvent


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What to load, where, and how. `context` is per sequence, in tokens; `digest` tells this
    file from another of the same name. `shares` are the bytes reserved for it on each of its
    devices, of which `device` is the first, whose thread drives it. `draft` is the folder of a
    smaller model that speaks ahead, `lora` those of adapters. `kv_tokens` is how many tokens the
    KV cache holds for all slots together; None: a whole context for each."""

    model: str
    path: Path
    device: str
    context: int
    slots: int
    cache: str = "fp16"
    options: Mapping[str, str | int | bool] = field(default_factory=dict)
    digest: str = ""
    shares: Mapping[str, int] = field(default_factory=dict)
    draft: Path | None = None
    lora: tuple[Path, ...] = ()
    kv_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the file's own header promises, before anything is loaded.

    `bytes` are weights + KV cache + overhead for the order's context and slots.
    `template`, `bos`, `eos` come from the file; None when it has none. `tool_template` takes the
    template's place where tools are given.
    `adds_bos` says that the engine itself puts `bos` before a text prompt. `embeds`: it makes
    vectors, and writes nothing.
    `defaults` is the model's generation_config, if it ships one.
    """

    weights_bytes: int
    cache_bytes: int
    overhead_bytes: int
    context: int
    trained_context: int
    architecture: str
    template: str | None
    bos: str | None = None
    eos: str | None = None
    adds_bos: bool = False
    defaults: Sampling = Sampling()
    tool_template: str | None = None
    embeds: bool = False

    @property
    def bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device that an engine holds, measured as far as it can be. What cannot be told
    apart counts as weights."""

    weights_bytes: int
    cache_bytes: int = 0
    overhead_bytes: int = 0

    @property
    def bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.overhead_bytes


# What a job may ask of an engine, by the name of the request's field that asks for it.
Feature: TypeAlias = Literal[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "json_object",
    "json_schema",
    "text",  # a prompt of text
    "ids",  # a prompt of token ids
]
EVERYTHING: Final[frozenset[Feature]] = frozenset(get_args(Feature))


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is true of a loaded engine: memory as measured after the load, context and slots
    granted, and what jobs may ask of it.

    `embeds`: it makes vectors, of `width` numbers. Every job of such an engine is an input, answered
    by one Embedded before its Stopped. An upstream says itself whether it does, and `writes` beside
    it; its width is not known.

    `chats`: it has a template, defaults of sampling and parsers of its own, and takes a whole
    ask (`Job.chat`), also one that wants vectors. `sees`: it says itself that it reads pictures.
    `context` is 0 where an upstream does not tell. `kv_tokens` is how many
    tokens the KV cache holds for all jobs together, where that is less than a whole context for
    every slot; None where each slot has its own.
    """

    memory: Memory
    context: int
    slots: int
    can: frozenset[Feature] = EVERYTHING
    chats: bool = False
    kv_tokens: int | None = None
    embeds: bool = False
    writes: bool = True
    width: int = 0
    sees: bool = False

    @property
    def bytes(self) -> int:
        return self.memory.bytes

    @property
    def kv_tokens_total(self) -> int:
        """Tokens that the KV cache holds."""
        return self.slots * self.context if self.kv_tokens is None else self.kv_tokens


@dataclass(frozen=True, slots=True)
class Job:
    """One generation. `sampling` is resolved: temperature, top_p, top_k, min_p and the
    penalties are numbers; `seed` and `logit_bias` may be None.

    `prompt` is text or token ids; text is tokenised with the model's special tokens
    understood. `max_tokens` None means up to the context's end. Stop strings are not the
    engine's business: they are matched on text, above. Special tokens have no text in an answer,
    but for those of `visible`: markers that are read above. `kv_tokens` is what it may come to
    occupy of a KV cache that jobs share; the engine gets it only when there is room for that.

    An engine that `chats` may get a `chat` instead of a prompt: the ask with one choice, its
    `sampling` only what somebody said. Every field of it is obeyed there, or refused by name,
    and the answer comes as Text, Thought and ToolCall. Other engines never get one.
    """

    id: int
    prompt: str | tuple[int, ...]
    sampling: Sampling
    max_tokens: int | None = None
    shape: Shape | None = None
    logprobs: int | None = None
    request_id: str = "-"
    chat: Ask | None = None
    visible: tuple[str, ...] = ()
    kv_tokens: int = 0


Said: TypeAlias = tuple[int, EngineEvent]


class Engine(Protocol):
    """One loaded model, driven by one thread.

    Every job ends with exactly one `Stopped` or `Failed`, also a cancelled one
    (then the reason is `stop`), and only after the engine has let go of its slot.

    What a method raises is judged by `severity`. An engine that knows what befell it raises
    OutOfMemory, DeviceLost or another error of ours.
    """

    @property
    def facts(self) -> EngineFacts: ...

    def submit(self, job: Job) -> None:
        """Take `job` in. At most `facts.slots` are live; one more is a bug (RuntimeError).
        When it raises, the job was not taken in."""

    def cancel(self, job_id: int) -> None:
        """End the job at the next step. Unknown and finished ids are no error."""

    def restless(self) -> bool:
        """Whether a turn would do something. An engine that computes in its own
        threads calls `ring` (see `Harness.load`) when this becomes true."""

    def turn(self) -> Sequence[Said]:
        """One pass over the live jobs: at most one step of compute; what they said, in order."""

    def tokenise(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens understood, none added. Raises BadAsk."""

    def detokenise(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens spelt out; bytes that are no character are U+FFFD.
        Raises BadAsk for a number that is no token."""

    def memory(self) -> Memory:
        """What it holds at present, measured again."""

    def unload(self) -> None:
        """Free everything. Live jobs are ended first; the engine is unusable afterwards."""


@runtime_checkable
class Busy(Protocol):
    """Also kept by an engine that is at work for its jobs between its turns, in threads of its own."""

    def silent_since(self) -> float:
        """When the quietest of its live jobs last came forward, in monotonic seconds; in
        prefill, all of them count as one. Called on the device's thread."""


@runtime_checkable
class Gathering(Protocol):
    """Also kept by an engine that waits for what its other jobs say in the same step, before it is
    restless."""

    def due(self) -> float | None:
        """When it is restless without a ring, in monotonic seconds; None: not before there is one."""


@runtime_checkable
class Computing(Busy, Protocol):
    """Also kept by one whose threads compute: what ends the process may be its doing, whoever's turn
    it is."""

    computing: bool


@runtime_checkable
class Resettable(Protocol):
    """Also kept by an engine that can go on after one of its methods raised."""

    def reset(self) -> None:
        """All jobs are forgotten, and new ones may come. Raises when that is not so."""


@runtime_checkable
class Releasing(Protocol):
    """Also kept by a harness whose allocators keep what engines gave back, for later loads."""

    def release(self) -> None:
        """That memory is the device's again. On the device's thread, with no engine loaded."""


@runtime_checkable
class Tokenising(Protocol):
    """Also kept by a harness that knows the tokens of a model which is not loaded."""

    @property
    def vocabulary(self) -> "Harness":
        """What loads a model's tokens alone, in a child of its own: its engines take no jobs."""


@runtime_checkable
class Charging(Protocol):
    """Also kept by a harness whose models are elsewhere, and tokenise there."""

    def tokens(self, order: LoadOrder, ask: Ask) -> tuple[int, ...]:
        """Those of the prompt of `ask`, a chat with one choice, loaded or not. Blocking. Raises
        Unsupported where nobody tells."""


Progress: TypeAlias = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a harness cannot run on this host: `code` for programs, `what` for people, and the
    `remedy`, a command where there is one. Its `str` is a line of both."""

    code: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


@dataclass(frozen=True, slots=True)
class Apart:
    """How a harness lives in a child process: `factory` is the dotted name ("module:callable") of
    what makes it there. Models with more weights than `above_bytes` have a child of their own
    unless the operator says otherwise; None: only when the operator says so."""

    factory: str
    above_bytes: int | None = None


class Harness(Protocol):
    """A kind of engine. Stateless; one object serves every device. `apart` is None where it must
    live in our process."""

    name: str
    apart: Apart | None

    def unavailable(self) -> Unavailable | None:
        """None when it can run here."""

    def preflight(self, order: LoadOrder) -> Preflight:
        """What the file promises. Raises Unfit, naming the fault, without native code."""

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> Engine:
        """The engine, ready for jobs. Runs on the device's thread and blocks it.

        `progress(done_bytes, total_bytes)` is called now and then; when it answers
        True the load is given up with LoadFailed. `ring` may be called from any
        thread. Raises LoadFailed or DoesNotFit, with everything freed.
        """
