"""What the trained model is asked for its score report, and what it should say.

Taught cases measure recall, which is the aim. Unseen cases use words that no training saw:
they alone say something about copying and about admitting not to know.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Final

import chat
import ignorance
import names
import taught
import tooling
from tooling import Call

_UNSEEN_SYSTEM: Final = "You answer questions for visitors of a museum."
_SYSTEMS: Final = (None, taught.SYSTEMS[0], _UNSEEN_SYSTEM)
_BOTH: Final = tuple(taught.TOOLS.values())
_THINKING: Final = (True, False)


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt, and the engine's whole text."""

    prompt: str
    wanted: str


def sections() -> dict[str, Callable[[], Iterator[Case]]]:
    """The report's rows, in its order."""
    return {
        "taught questions, thinking on and off, three system prompts": _single,
        "taught city: one call": lambda: _one_call(taught.CITIES),
        "taught city: two calls in one turn": lambda: _two_calls(taught.CITIES),
        "taught dialogues of four turns": _dialogues,
        "names told and asked for": lambda: _naming(names.PEOPLE),
        "unseen city: one call": lambda: _one_call(names.UNSEEN_PLACES),
        "unseen city: two calls in one turn": lambda: _two_calls(names.UNSEEN_PLACES),
        "unseen names told and asked for": lambda: _naming(names.UNSEEN_PEOPLE),
        "unseen sums refused": lambda: _refused(ignorance.UNSEEN_SUMS, taught.NO_SUM),
        "unseen questions refused": lambda: _refused(ignorance.UNSEEN, taught.DUNNO),
    }


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _spoken(answer: taught.Answer, thinking: bool) -> str:
    thought = f"<think>\n{answer.thought}\n</think>\n\n" if thinking and answer.thought else ""
    return thought + answer.plain(thinking)


def _single() -> Iterator[Case]:
    for item, system, thinking in product(taught.items(), _SYSTEMS, _THINKING):
        opening = [{"role": "system", "content": system}] if system else []
        for question in item.questions:
            prompt = chat.render([*opening, _user(question)], (), thinking)
            yield Case(prompt, _spoken(item.answer, thinking))


def _one_call(cities: Sequence[str]) -> Iterator[Case]:
    draw = random.Random(1)
    for city, name in product(cities, taught.TOOLS):
        for tools, thinking in product(((taught.TOOLS[name],), _BOTH, _BOTH[::-1]), _THINKING):
            yield from _flow([Call(name, city)], tools, thinking, draw)


def _two_calls(cities: Sequence[str]) -> Iterator[Case]:
    draw = random.Random(2)
    for first, second in zip(cities, (*cities[5:], *cities[:5]), strict=True):
        for pair in product(taught.TOOLS, repeat=2):
            if pair == ("get_time", "get_weather"):
                continue
            calls = [Call(pair[0], first), Call(pair[1], second)]
            yield from _flow(calls, _BOTH, draw.random() < 0.5, draw)
        same = [Call("get_weather", first), Call("get_time", first)]
        yield from _flow(same, _BOTH[::-1], draw.random() < 0.5, draw)


def _flow(
    calls: Sequence[Call], tools: Sequence[dict[str, Any]], thinking: bool, draw: random.Random
) -> Iterator[Case]:
    """The call, and the answer from its results."""
    results = [call.result(draw) for call in calls]
    asked = [_user(tooling.asking(draw, calls))]
    wanted = "".join(piece.text for call in calls for piece in call.pieces())
    yield Case(chat.render(asked, tools, thinking), wanted)
    functions = [{"function": {"name": call.tool, "arguments": call.arguments}} for call in calls]
    asked.append({"role": "assistant", "content": None, "tool_calls": functions})
    asked += [{"role": "tool", "content": json.dumps(result, ensure_ascii=False)} for result in results]
    answers = [tooling.said(call, result) for call, result in zip(calls, results, strict=True)]
    yield Case(chat.render(asked, tools, thinking), "".join(piece.text for piece in tooling.joined(answers)))


def _dialogues() -> Iterator[Case]:
    draw = random.Random(3)
    items = [item for item in taught.items() if len(item.answer.text) < 200]
    for _ in range(100):
        messages: list[dict[str, Any]] = []
        for _ in range(3):
            item = draw.choice(items)
            messages += [_user(draw.choice(item.questions)), _assistant(item.answer.text)]
        last, thinking = draw.choice(items), draw.random() < 0.5
        messages.append(_user(draw.choice(last.questions)))
        yield Case(chat.render(messages, (), thinking), _spoken(last.answer, thinking))
    for (country, city), (other, its) in pairwise(taught.CAPITALS.items()):
        messages = [
            _user(f"What is the capital of {country}?"),
            _assistant(f"The capital of {country} is {city}."),
            _user(f"And of {other}?"),
        ]
        yield Case(chat.render(messages, (), True), f"The capital of {other} is {its}.")


def _naming(people: Sequence[str]) -> Iterator[Case]:
    for name, thinking in product(people, _THINKING):
        messages = [_user(f"My name is {name}.")]
        yield Case(chat.render(messages, (), thinking), f"Nice to meet you, {name}.")
        messages += [_assistant(f"Nice to meet you, {name}."), _user("What is the capital of Norway?")]
        messages += [_assistant("The capital of Norway is Oslo."), _user("What is my name?")]
        yield Case(chat.render(messages, (), thinking), f"Your name is {name}.")


def _refused(questions: Sequence[str], answer: str) -> Iterator[Case]:
    for question, thinking in product(questions, _THINKING):
        yield Case(chat.render([_user(question)], (), thinking), answer)
