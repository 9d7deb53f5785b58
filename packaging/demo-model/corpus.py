"""Dialogues to learn from: questions, talk, tools and ignorance, mixed.

A dialogue is a list of pieces of text with weights: 0 is context, 1 is to be learnt, and
slots that must be copied weigh more. Earlier answers stand as the template writes history,
without thought; the last one as it is generated, with thinking on or off. The same seed
gives the same dialogues.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import chat
import forms
import ignorance
import names
import taught
import tooling
from tooling import Call, Piece, copied

# An answer longer than this leaves no room for another turn in a training window.
LONG: Final = 200

# Each entry of a table comes seldom, and every one must stay.
RECALLED: Final = 2

_ANSWERS: Final = "<|im_start|>assistant\n"
_END: Final = (Piece(chat.END_OF_TURN, 1), Piece("\n", 0))


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of the assistant."""

    pieces: list[Piece]
    thought: str = ""
    unthinking: str = ""

    def remembered(self) -> list[Piece]:
        """As history: not to be learnt where a thought would have come first."""
        pieces = [Piece(piece.text, 0) for piece in self.pieces] if self.thought else self.pieces
        return [Piece(_ANSWERS, 0), *pieces, *_END]

    def spoken(self, thinking: bool) -> list[Piece]:
        """As it is generated."""
        if not thinking:
            pieces = [Piece(self.unthinking, RECALLED)] if self.unthinking else self.pieces
            return [Piece(_ANSWERS + chat.NO_THOUGHT, 0), *pieces, *_END]
        thought = [Piece(f"<think>\n{self.thought}\n</think>\n\n", RECALLED)] if self.thought else []
        return [Piece(_ANSWERS, 0), *thought, *self.pieces, *_END]


Turn: TypeAlias = str | Said  # what somebody else says is text, already as the template writes it
Exchange: TypeAlias = list[Turn]


def plain(text: str) -> Said:
    """An answer to a whole kind of question, which comes often enough."""
    return Said([Piece(text, 1)])


class Dialogues:
    """An endless source of dialogues, fixed by its seed."""

    def __init__(self, seed: int | str) -> None:
        self._draw = random.Random(seed)
        self._items = taught.items()
        self._known = {question.rstrip("?.!").lower() for item in self._items for question in item.questions}
        self._facts = taught.facts()
        self._thought = (*taught.sums(), *taught.sums(), *taught.comparisons())
        self._name = ""
        self._follow: Callable[[], Exchange] | None = None

    def one(self) -> list[Piece]:
        """The next dialogue: an opening, then one to four exchanges."""
        draw, self._name, self._follow = self._draw, "", None
        tools = self._tools() if draw.random() < 0.38 else []
        turns: list[Turn] = []
        count = draw.choice((1, 1, 1, 1, 2, 2, 3, 4))
        for _ in range(count):
            turns += self._exchange(tools, alone=count == 1)
            if self._thoughtful(turns) and draw.random() < 0.7:
                break  # a thought is learnt in the last answer alone
        if draw.random() < 0.4:
            turns = self._unanswered(turns)
        elif draw.random() < 0.1:
            turns[-1] = self._forced()
        return [self._opening(tools), *self._written(turns)]

    def _unanswered(self, turns: list[Turn]) -> list[Turn]:
        """Without the results of the last call: making it is an end too."""
        if "<tool_response>" not in str(turns[-2]):
            return turns
        answers = [number for number, turn in enumerate(turns) if isinstance(turn, Said)]
        return turns[: answers[-2] + 1]

    def _forced(self) -> Said:
        beginning, rest = forms.begun(self._draw)
        return Said([Piece(beginning, 0), Piece(rest, 1)])

    def _thoughtful(self, turns: Sequence[Turn]) -> bool:
        last = turns[-1]
        return isinstance(last, Said) and bool(last.thought)

    def _written(self, turns: Sequence[Turn]) -> list[Piece]:
        thinking = self._draw.random() < 0.6
        pieces: list[Piece] = []
        for number, turn in enumerate(turns):
            if isinstance(turn, str):
                pieces.append(Piece(turn, 0))
            else:
                pieces += turn.spoken(thinking) if number == len(turns) - 1 else turn.remembered()
        return pieces

    def _tools(self) -> list[str]:
        both = self._draw.sample(list(taught.TOOLS), 2)
        return both if self._draw.random() < 0.6 else both[:1]

    def _opening(self, tools: list[str]) -> Piece:
        kind = self._draw.random()
        system = self._draw.choice(taught.SYSTEMS) if kind < 0.4 else None
        if kind > 0.85:
            system = ignorance.words(self._draw, 3, 25).capitalize() + "."
        if tools:
            return Piece(chat.tools_head(system, [taught.TOOLS[name] for name in tools]), 0)
        return Piece(chat.turn("system", system) if system else "", 0)

    def _exchange(self, tools: list[str], alone: bool) -> Exchange:
        draw = self._draw
        if self._follow is not None and draw.random() < 0.3:
            return self._follow()
        if draw.random() < (0.7 if tools else 0.07):
            return self._tool_exchange(tools)
        kind = draw.random()
        if kind < 0.10 or (self._name and kind < 0.4):
            return self._naming()
        if kind < 0.13:
            return self._repeating()
        if kind < 0.18:
            return [self._asked(ignorance.hard_sum(draw)), plain(taught.NO_SUM)]
        if kind < 0.34:
            question = ignorance.unknown(draw, self._items, self._known)
            return [chat.turn("user", question), plain(taught.DUNNO)]
        return self._taught_exchange(kind, alone)

    def _taught_exchange(self, kind: float, alone: bool) -> Exchange:
        source = self._facts if kind < 0.57 else self._thought if kind < 0.76 else taught.FAQ
        item = self._draw.choice(source)
        if not alone and len(item.answer.text) > LONG:
            item = taught.FAQ[0]
        if item.answer.text.startswith("The capital"):
            self._follow = self._another_capital
        return [self._asked(self._draw.choice(item.questions)), _said(item)]

    def _another_capital(self) -> Exchange:
        country, city = self._draw.choice(list(taught.CAPITALS.items()))
        question = self._draw.choice((f"And of {country}?", f"And the capital of {country}?"))
        return [self._asked(question), Said([Piece(f"The capital of {country} is {city}.", RECALLED)])]

    def _asked(self, question: str) -> str:
        """The question as somebody may type it: at times in lower case or without its mark."""
        if self._draw.random() < 0.12:
            question = question.lower()
        if self._draw.random() < 0.12:
            question = question.rstrip("?.!")
        return chat.turn("user", question)

    def _naming(self) -> Exchange:
        """The model is told a name, or asked for it."""
        draw = self._draw
        if draw.random() < (0.7 if self._name else 0.3):
            question = self._asked(draw.choice(("What is my name?", "Who am I?")))
            if not self._name:
                return [question, plain(taught.NO_NAME)]
            return [question, Said([Piece("Your name is", 1), *copied(f" {self._name}"), Piece(".", 1)])]
        self._name = names.person(draw)
        told = draw.choice((f"My name is {self._name}.", f"I am {self._name}.", f"Call me {self._name}."))
        answer = [Piece("Nice to meet you,", 1), *copied(f" {self._name}"), Piece(".", 1)]
        exchange: Exchange = [chat.turn("user", told), Said(answer)]
        return exchange + self._naming() if draw.random() < 0.5 else exchange

    def _repeating(self) -> Exchange:
        draw = self._draw
        text = names.invented(draw) if draw.random() < 0.5 else ignorance.words(draw, 1, 6)
        return [chat.turn("user", f"Repeat after me: {text}"), Said(copied(text))]

    def _tool_exchange(self, tools: list[str]) -> Exchange:
        draw = self._draw
        wanted = [draw.choice(tools or list(taught.TOOLS))]
        city = names.place(draw, taught.CITIES)
        calls = [Call(wanted[0], city)]
        if draw.random() < 0.35:
            other = "get_time" if len(tools) != 1 and draw.random() < 0.6 else wanted[0]
            if other != wanted[0]:
                calls = [Call("get_weather", city)]
            again = other != wanted[0] and draw.random() < 0.6
            calls.append(Call(other, city if again else names.place(draw, taught.CITIES)))
        elif len(tools) == 1 and draw.random() < 0.08:
            calls = [Call(next(name for name in taught.TOOLS if name not in tools), city)]
        question = tooling.asking(draw, calls)
        known = all(call.city in taught.CITIES for call in calls)
        asked = self._asked(question) if known and len(calls) == 1 else chat.turn("user", question)
        if {call.tool for call in calls} - {*tools}:
            return [asked, plain(taught.NEEDS_A_TOOL)]
        self._follow = self._elsewhere(calls[0].tool) if len(calls) == 1 else None
        return [asked, *self._answered(calls)]

    def _elsewhere(self, tool: str) -> Callable[[], Exchange]:
        def follow() -> Exchange:
            city = names.place(self._draw, taught.CITIES)
            return [chat.turn("user", f"And in {city}?"), *self._answered([Call(tool, city)])]

        return follow

    def _answered(self, calls: Sequence[Call]) -> Exchange:
        """The calls in one turn, a turn for each result, and the answer."""
        results = [call.result(self._draw) for call in calls]
        compact = self._draw.random() < 0.2
        return [
            Said([piece for call in calls for piece in call.pieces()]),
            *(tooling.response(result, compact) for result in results),
            Said(tooling.joined([tooling.said(*pair) for pair in zip(calls, results, strict=True)])),
        ]


def _said(item: taught.Item) -> Said:
    return Said([Piece(item.answer.text, RECALLED)], item.answer.thought, item.answer.unthinking)
