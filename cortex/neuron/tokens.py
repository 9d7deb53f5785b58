"""What a text or a chat is in the tokens of a model, and back.

The bodies of /tokenize and /detokenize are those of vLLM's routes of these names;
/v1/messages/count_tokens is Anthropic's. A loaded model is asked itself; of one that lies on this disk
a child has the vocabulary alone: nothing is loaded to count, nobody makes room, no slot is taken. A
chat is rendered by the same hands as a generation's, so the count is what that would be charged for.
Chats for an upstream's model are counted there, where that can be.
"""

import weakref
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias, TypeVar

import trio

from cortex.ask import Ask, Sampling
from cortex.catalogue import ModelSpec, unknown
from cortex.config.models import spec_from_text
from cortex.errors import BadAsk, NotHereNow, NotResident, TooSlow, Unsupported
from cortex.harness.base import Charging, LoadOrder, Tokenising
from cortex.neuron import passing, prompts, vectors
from cortex.neuron.budget import ensure_bearable, ensure_countable
from cortex.neuron.prompts import Voice
from cortex.neuron.residents import Living, Residents
from cortex.neuron.vocabularies import Vocabularies
from cortex.translator import media, openai_chat
from cortex.translator.dialects import MESSAGES
from cortex.web.connection import Reply, Request
from cortex.web.site import Route
from cortex.wire import neuron as wire
from cortex.wire.anthropic_answers import CountBody, encode

COUNT: Final = "/v1/messages/count_tokens"
# At one upstream; the others wait in line, within the time that there is.
AT_ONCE: Final = 4
ELSEWHERE_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class _Tongue:
    """The tokens of one model, loaded or not, what it can do, and how it is spoken to."""

    model: str
    able: Collection[str]
    context: int
    voice: Voice
    tokenise: Callable[[str], Awaitable[tuple[int, ...]]]
    detokenise: Callable[[Sequence[int]], Awaitable[str]]

    async def words(self, text: str, *, begin: bool) -> tuple[int, ...]:
        """Of a text, with the begin token where the engine adds one and it is not to be left out."""
        ensure_countable(text, "prompt")
        return await self.tokenise((self.voice.bos if begin else "") + text)

    async def tokens(self, ask: Ask) -> tuple[int, ...]:
        """What a generation of `ask` has for its prompt. Refused as there when that is beyond all measure."""
        prompt = await trio.to_thread.run_sync(self._prompt, ask, abandon_on_cancel=True)
        ensure_bearable(prompt, self.context)
        ensure_countable(prompt, "messages")
        return await self.tokenise(prompt)

    def _prompt(self, ask: Ask) -> str:
        """As the engine gets it, with the begin token that the engine adds."""
        ask = replace(ask, model=self.model)
        prompts.check(ask)
        vectors.check(ask, self.able)
        job = prompts.prepare(ask, self.voice, "-").jobs[0]
        assert isinstance(job.prompt, str)  # noqa: S101 - a chat's prompt is rendered text
        return self.voice.bos + job.prompt


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The tokens of an upstream's model: whole chats are counted where they would be answered."""

    spec: ModelSpec
    able: Collection[str]
    order: LoadOrder
    defaults: Sampling
    harness: Charging
    # Not of the threads that all share: an upstream that hangs would have them all.
    threads: trio.CapacityLimiter

    @property
    def context(self) -> int:
        return self.order.context

    async def tokens(self, ask: Ask) -> tuple[int, ...]:
        """What a generation of `ask` has for its prompt. TooSlow when the upstream does not tell."""
        ask = replace(ask, model=self.spec.id)
        with trio.move_on_after(ELSEWHERE_S):
            return await trio.to_thread.run_sync(
                self._told, ask, abandon_on_cancel=True, limiter=self.threads
            )
        raise TooSlow(
            f"The upstream of model '{self.spec.id}' told no tokens within {ELSEWHERE_S:g} s; try again later"
        )

    def _told(self, ask: Ask) -> tuple[int, ...]:
        passing.check(ask, self.able)
        if ask.images:
            raise media.uncounted(ask.images)
        chat = passing.prepare(ask, self.defaults, "-").jobs[0].chat
        assert chat is not None  # noqa: S101 - a chat is passed on whole
        return self.harness.tokens(self.order, chat)

    async def words(self, text: str, *, begin: bool) -> tuple[int, ...]:
        raise self._unknown()

    async def detokenise(self, ids: Sequence[int]) -> str:
        raise self._unknown()

    def _unknown(self) -> Unsupported:
        return Unsupported(
            f"Model '{self.spec.id}' is an upstream's, and so are its tokens; ask the upstream", param="model"
        )


_T = TypeVar("_T")
_Question: TypeAlias = Callable[[_Tongue | _Elsewhere], Awaitable[_T]]


class Tokeniser:
    """Answers the three routes, on a neuron of that name."""

    def __init__(self, name: str, residents: Residents, vocabularies: Vocabularies) -> None:
        self._name, self._residents, self._vocabularies = name, residents, vocabularies
        # By model, kept by those who are in them: who counts a lot keeps nobody from his turn.
        self._lines: weakref.WeakValueDictionary[str, trio.Lock] = weakref.WeakValueDictionary()
        self._threads: weakref.WeakValueDictionary[str, trio.CapacityLimiter] = weakref.WeakValueDictionary()

    def routes(self) -> dict[str, Route]:
        """What is not for the application: a chat may be longer than what that reads."""
        return {COUNT: Route(COUNT, self.count, MESSAGES.wire)}

    async def count(self, request: Request, reply: Reply) -> None:
        """POST /v1/messages/count_tokens: what the same body would be charged for its prompt."""
        ask = await trio.to_thread.run_sync(MESSAGES.read, request.body, abandon_on_cancel=True)
        if request.headers.get(wire.ROUTE) is None:
            model = self._residents.meant(ask.model)
            tokens = await self._of(model, lambda tongue: tongue.tokens(ask))
        else:
            model, tokens = ask.model, await self._routed(ask, request.headers.get(wire.SPEC))
        said = ((wire.NEURON, self._name), (wire.MODEL, model))
        await reply.whole(200, encode(CountBody(len(tokens))), said)

    async def tokenise(self, order: wire.Tokenize, body: bytes) -> wire.Tokenized:
        """The tokens of a prompt, or of a chat: then `body` is read as that of a completion."""
        if (order.prompt is None) == (order.messages is None):
            raise BadAsk("Send either 'prompt', a text, or 'messages', a chat", param="prompt")
        _check(order)
        model = self._residents.meant(order.model)
        if order.prompt is None:
            ask = await trio.to_thread.run_sync(openai_chat.read, body, abandon_on_cancel=True)
        else:
            ask = None

        async def tokenised(tongue: _Tongue | _Elsewhere) -> wire.Tokenized:
            if ask is not None:
                ids = await tongue.tokens(ask)
            else:
                ids = await tongue.words(order.prompt or "", begin=order.add_special_tokens is not False)
            return wire.Tokenized(count=len(ids), max_model_len=tongue.context, tokens=list(ids))

        return await self._of(model, tokenised)

    async def detokenise(self, order: wire.Detokenize) -> wire.Detokenized:
        """The text of tokens; bytes that are no whole character are shown as U+FFFD."""
        model = self._residents.meant(order.model)
        return wire.Detokenized(prompt=await self._of(model, lambda tongue: tongue.detokenise(order.tokens)))

    async def _routed(self, ask: Ask, sent: str | None) -> tuple[int, ...]:
        """The tokens for a gateway, which asks the next neuron where this one has not the files."""
        spec = None if sent is None else spec_from_text(sent)
        if spec is not None and spec.id != ask.model:
            raise BadAsk(f"'{wire.SPEC}' is about another model than the body", param="model")
        known = ask.model in self._residents.found.known() or self._residents.living(ask.model) is not None
        if spec is None and not known:
            raise NotHereNow(f"Neuron '{self._name}' does not know model '{ask.model}'")
        try:
            return await self._of(ask.model, lambda tongue: tongue.tokens(ask), spec)
        except NotResident as error:
            raise NotHereNow(error.message) from error

    async def _of(self, model: str, question: _Question[_T], sent: ModelSpec | None = None) -> _T:
        """The answer for the model of that id; of one that our own catalogue does not have, as `sent`."""
        living = self._residents.living(model)
        if living is not None and not living.facts.chats and _sound(living):
            with suppress(NotResident):  # it was unloaded meanwhile
                return await question(self._loaded(living))
        return await question(await self._unloaded(model, sent))

    async def _unloaded(self, model: str, sent: ModelSpec | None) -> _Tongue | _Elsewhere:
        spec = await self._residents.spec(model) or sent
        if spec is None:
            raise unknown(model, list(self._residents.found.known()))
        harness, promise = self._residents.engines.of(spec), await self._residents.on_disk(spec)
        if promise is None:
            raise NotResident(
                f"Model '{model}' is not loaded, and its files are not on the disk of neuron '{self._name}': "
                f"download them with `cortex models pull {model}`, or load the model, then count again",
                param="model",
            )
        if isinstance(harness, Charging):
            able, living = await self._residents.capabilities(model) or (), self._residents.living(model)
            context = promise.order.context if living is None else living.facts.context
            order = replace(promise.order, context=context)
            url = str(order.options.get("url"))
            threads = self._threads.setdefault(url, trio.CapacityLimiter(AT_ONCE))
            return _Elsewhere(spec, able, order, promise.voice(spec).defaults, harness, threads)
        assert isinstance(harness, Tokenising)  # noqa: S101 - each of ours is, or passes on
        return _Tongue(
            model,
            promise.capabilities,
            promise.order.context,
            promise.voice(spec),
            partial(self._vocabularies.tokenise, harness, promise.order),
            partial(self._vocabularies.detokenise, harness, promise.order),
        )

    def _loaded(self, living: Living) -> _Tongue:
        """Asked one question at a time, whole: a long text keeps the engine from its turns."""
        model, worker = living.spec.id, living.worker
        line = self._lines.setdefault(model, trio.Lock())

        async def tokenise(text: str) -> tuple[int, ...]:
            async with line:
                return await worker.tokenise(model, text)

        async def detokenise(ids: Sequence[int]) -> str:
            async with line:
                return await worker.detokenise(model, ids)

        able, context = living.capabilities, living.facts.context
        return _Tongue(model, able, context, living.voice, tokenise, detokenise)


def _sound(living: Living) -> bool:
    """Whether its engine answers: a broken one is not asked, nor one on a device that is lost."""
    return living.worker.poisoned is None and living.worker.fault(living.spec.id) is None


def _check(order: wire.Tokenize) -> None:
    """What is not done here is refused by name."""
    if order.return_token_strs:
        raise Unsupported(
            "'return_token_strs' is not supported; ask /detokenize for the texts", param="return_token_strs"
        )
    if order.messages is not None and order.add_special_tokens:
        raise Unsupported(
            "'add_special_tokens' is for a 'prompt': a chat has what its template and its engine add",
            param="add_special_tokens",
        )
