"""A load of an upstream's model: it is looked for there, and remembered. Unloading forgets it.

An order names no file but an address and a name. While the upstream is asked, the others at
the place have their turns; a load that is given up hangs up.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from cortex.ask import Ask
from cortex.catalogue import near
from cortex.config.upstream import UpstreamConfig
from cortex.errors import CortexError, LoadFailed, Unfit
from cortex.harness.base import Apart, EngineFacts, LoadOrder, Memory, Preflight, Progress, Unavailable
from cortex.harness.upstream import counting
from cortex.harness.upstream.engine import There, UpstreamEngine, Waits
from cortex.harness.upstream.exchange import Endpoint, Exchange, let_go
from cortex.harness.upstream.listing import Told, listed, listed_by
from cortex.translator.openai_manners import MANNERS, of_owner

NAME: Final = "upstream"
URL, REMOTE_NAME = "url", "name"
POLL_S: Final = 0.01  # how often neighbours have a turn meanwhile


class UpstreamHarness:
    """OpenAI-compatible engines elsewhere, with the key and the limits of `config`."""

    def __init__(self, config: UpstreamConfig) -> None:
        self.name = NAME
        self.apart: Apart | None = None  # nothing here can crash that a child would contain
        self._config = config

    def unavailable(self) -> Unavailable | None:
        return None

    def preflight(self, order: LoadOrder) -> Preflight:
        """Nothing lies here, and nobody is asked: the promise is that it takes no room."""
        _address(order)
        if order.slots < 1:
            raise Unfit(f"{order.model}: slots = {order.slots} must be positive")
        return Preflight(0, 0, 0, order.context, order.context, NAME, None)

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> UpstreamEngine:
        url, name = _address(order)
        endpoint = self.endpoint(url)
        told = _verify(order, name, self._ask(order, endpoint, progress), url)
        context = told.context or order.context or told.trained
        facts = EngineFacts(
            Memory(0),
            context,
            order.slots,
            chats=True,
            sees=told.sees,
            embeds="embeddings" in told.able,
            writes="embeddings" not in told.able or bool({"chat", "completion"} & told.able),
        )
        manner = of_owner(told.owner, MANNERS[self._config.kind])
        waits = Waits(self._config.connect_s, self._config.first_token_s, self._config.stall_s)
        return UpstreamEngine(There(endpoint, name, manner, order.model), waits, facts, ring)

    def tokens(self, order: LoadOrder, ask: Ask) -> tuple[int, ...]:
        """Of the prompt of a chat, loaded or not, as they are told there. Raises Unsupported where nobody
        tells, and whatever may go wrong with an upstream."""
        url, name = _address(order)
        endpoint, patience_s = self.endpoint(url), self._config.connect_s
        told = _verify(order, name, listed_by(endpoint, patience_s), url)
        manner = of_owner(told.owner, MANNERS[self._config.kind])
        return counting.tokens(Exchange(counting.beside(endpoint), patience_s), ask, name, manner)

    def endpoint(self, url: str) -> Endpoint:
        """`url` with the key, if that is for its origin."""
        ours = {Endpoint(each).origin for each in self._config.endpoints}
        return Endpoint(url, self._config.api_key if Endpoint(url).origin in ours else None)

    def _ask(self, order: LoadOrder, endpoint: Endpoint, progress: Progress) -> Mapping[str, Told]:
        exchange = Exchange(endpoint, self._config.connect_s)
        thread = ThreadPoolExecutor(1, f"load-{order.model}")
        answer = thread.submit(listed, exchange)
        try:
            unwanted = progress(0, 0)
            while not unwanted and not _done(answer):
                unwanted = progress(0, 0)
            if unwanted or progress(0, 0):
                raise LoadFailed(f"{order.model}: the load was given up")
            return answer.result()
        except LoadFailed:
            raise
        except CortexError as error:
            raise LoadFailed(
                f"{order.model}: the upstream {endpoint.url} was asked for its models: {error.message}"
            ) from error
        finally:
            exchange.abort()
            let_go(thread, [answer])


def missing(name: str, url: str, there: Iterable[str]) -> str:
    """The sentence that `name` is not served at `url`, with near names or all of them."""
    names = sorted(there)
    like = near(name, names) or names[:5]
    hint = f"; it has {', '.join(like)}" if like else "; it serves none"
    return f"the upstream {url} serves no model '{name}'{hint}"


def _verify(order: LoadOrder, name: str, there: Mapping[str, Told], url: str) -> Told:
    if name not in there:
        raise LoadFailed(
            f"{order.model}: {missing(name, url, there)}. Put the name there behind a # at the end of source"
        )
    return there[name]


def _address(order: LoadOrder) -> tuple[str, str]:
    url, name = order.options.get(URL), order.options.get(REMOTE_NAME)
    if not isinstance(url, str) or not isinstance(name, str):
        raise Unfit(f"{order.model}: an upstream's model needs its url and its name")
    return url, name


def _done(answer: "Future[Mapping[str, Told]]") -> bool:
    try:
        answer.exception(timeout=POLL_S)
    except TimeoutError:
        return False
    return True
