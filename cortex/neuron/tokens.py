"""What a text or a chat is in the tokens of a model, and back.

The bodies of /tokenize and /detokenize are those of vLLM's routes of these names;
/v1/messages/count_tokens is Anthropic's. A model is brought in as for a
request, since only a loaded engine has the tokens; no slot is taken. A chat is rendered
by the same hands as a generation's, so the count is what that would be charged for.
"""

from dataclasses import replace
from typing import Final

import trio

from cortex.ask import Ask
from cortex.catalogue import unknown
from cortex.dispatch import Dispatch
from cortex.errors import BadAsk, Unsupported
from cortex.neuron import prompts
from cortex.neuron.residents import Living, Residents
from cortex.translator import openai_chat
from cortex.translator.dialects import MESSAGES
from cortex.web.connection import Reply, Request
from cortex.web.site import Route
from cortex.wire import neuron as wire
from cortex.wire.anthropic_answers import CountBody, encode

COUNT: Final = "/v1/messages/count_tokens"


class Tokeniser:
    """Answers the three routes, on a neuron of that name."""

    def __init__(self, name: str, residents: Residents, dispatch: Dispatch) -> None:
        self._name, self._residents, self._dispatch = name, residents, dispatch

    def routes(self) -> dict[str, Route]:
        """What is not for the application: a chat may be longer than what that reads."""
        return {COUNT: Route(COUNT, self.count, MESSAGES.wire)}

    async def count(self, request: Request, reply: Reply) -> None:
        """POST /v1/messages/count_tokens: what the same body would be charged for its prompt."""
        ask = await trio.to_thread.run_sync(MESSAGES.read, request.body, abandon_on_cancel=True)
        living = await self._brought(ask.model, may_load=request.headers.get(wire.ROUTE) is None)
        text = await trio.to_thread.run_sync(_prompt, living, ask, abandon_on_cancel=True)
        ids = await living.worker.tokenise(living.spec.id, text)
        said = ((wire.NEURON, self._name), (wire.MODEL, living.spec.id))
        await reply.whole(200, encode(CountBody(len(ids))), said)

    async def tokenise(self, order: wire.Tokenize, body: bytes) -> wire.Tokenized:
        """The tokens of a prompt, or of a chat: then `body` is read as that of a completion."""
        if (order.prompt is None) == (order.messages is None):
            raise BadAsk("Send either 'prompt', a text, or 'messages', a chat", param="prompt")
        _check(order)
        living = await self._brought(order.model)
        if order.prompt is not None:
            text = ("" if order.add_special_tokens is False else living.voice.bos) + order.prompt
        else:
            ask = await trio.to_thread.run_sync(openai_chat.read, body, abandon_on_cancel=True)
            text = await trio.to_thread.run_sync(_prompt, living, ask, abandon_on_cancel=True)
        ids = await living.worker.tokenise(living.spec.id, text)
        return wire.Tokenized(count=len(ids), max_model_len=living.facts.context, tokens=list(ids))

    async def detokenise(self, order: wire.Detokenize) -> wire.Detokenized:
        """The text of tokens; bytes that are no whole character are shown as U+FFFD."""
        living = await self._brought(order.model)
        text = await living.worker.detokenise(living.spec.id, tuple(order.tokens))
        return wire.Detokenized(prompt=text)

    async def _brought(self, name: str, *, may_load: bool = True) -> Living:
        model = self._residents.meant(name)
        spec = await self._residents.spec(model)
        if spec is None:
            raise unknown(name, list(self._residents.found.known()))
        await self._dispatch.bring(replace(await self._residents.want(spec), may_load=may_load))
        living = self._residents.here(model)
        if living.facts.chats:
            raise Unsupported(
                f"Model '{name}' is an upstream's, and so are its tokens; ask the upstream", param="model"
            )
        return living


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


def _prompt(living: Living, ask: Ask) -> str:
    """The prompt of a chat as its engine gets it, with the begin token that the engine adds."""
    ask = replace(ask, model=living.spec.id)
    prompts.check(ask)
    job = prompts.prepare(ask, living.voice, "-").jobs[0]
    assert isinstance(job.prompt, str)  # noqa: S101 - a chat's prompt is rendered text
    return living.voice.bos + job.prompt
