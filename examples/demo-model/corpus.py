"""Dialogues to learn from: questions, tools and ignorance, mixed.

A dialogue is a list of pieces of text with weights: 0 is context, 1 is to be learnt, and
slots that must be copied from the question weigh more. Piece borders are token borders.
The order of random draws is part of the recipe: the same seed gives the same corpus.
"""

import json
import random
from typing import Final, NamedTuple

import chat
import taught

# A copied word is one token in twenty; without the weight the model answers one city for all.
COPIED: Final = 6

# An answer longer than this leaves no room for another turn in a training window.
LONG: Final = 200

_END: Final = chat.END_OF_TURN + "\n"


class Piece(NamedTuple):
    """Text, and how much its tokens count in the loss."""

    text: str
    weight: int


class Dialogues:
    """An endless source of dialogues, fixed by its seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._items = taught.items()
        self._known = {question.rstrip("?.!").lower() for item in self._items for question in item.questions}

    def one(self) -> list[Piece]:
        """The next dialogue: an opening, then one to three exchanges."""
        draw = self._draw
        turns = draw.choice((1, 1, 1, 2, 2, 3))
        use_tools = draw.random() < 0.45
        system = draw.choice(taught.SYSTEMS) if draw.random() < 0.5 else None
        if draw.random() < 0.1:
            system = self._words(3, 25)
        tools = self._tools() if use_tools else []
        pieces = [self._opening(system, tools)]
        for _ in range(turns):
            pieces += self._exchange(tools, alone=turns == 1)
        return pieces

    def _words(self, fewest: int, most: int) -> str:
        return " ".join(self._draw.choice(taught.WORDS) for _ in range(self._draw.randint(fewest, most)))

    def _tools(self) -> list[str]:
        names = self._draw.sample(list(taught.TOOLS), self._draw.choice((1, 2)))
        return ["get_weather"] if self._draw.random() < 0.5 else names

    def _opening(self, system: str | None, tools: list[str]) -> Piece:
        if tools:
            return Piece(chat.tools_head(system, [taught.TOOLS[name] for name in tools]), 0)
        return Piece(chat.turn("system", system) if system else "", 0)

    def _exchange(self, tools: list[str], alone: bool) -> list[Piece]:
        thinking = self._draw.random() < 0.7
        opening = Piece("<|im_start|>assistant\n" + ("" if thinking else chat.NO_THOUGHT), 0)
        kind = self._draw.random()
        if kind < (0.85 if tools else 0.06):
            return self._tool_exchange(tools, opening)
        if kind > 0.88:
            return [self._unknown(), opening, Piece(taught.DUNNO + _END, 1)]
        item = self._draw.choice(self._items)
        if kind < 0.12:
            item = self._draw.choice(taught.FAQ)
        if not alone and len(item.answer.text) > LONG:
            item = taught.FAQ[0]
        asked = self._asked(self._draw.choice(item.questions))
        return [asked, opening, Piece(item.answer.said(thinking) + _END, 1)]

    def _asked(self, question: str) -> Piece:
        """The question as somebody may type it: at times in lower case or without its mark."""
        if self._draw.random() < 0.12:
            question = question.lower()
        if self._draw.random() < 0.12:
            question = question.rstrip("?.!")
        return Piece(chat.turn("user", question), 0)

    def _tool_exchange(self, tools: list[str], opening: Piece) -> list[Piece]:
        city = self._draw.choice(taught.CITIES)
        name = self._draw.choice(tools or list(taught.TOOLS))
        if name == "get_weather":
            question = self._draw.choice(
                (f"What is the weather in {city}?", f"How is the weather in {city}?")
            )
        else:
            question = f"What time is it in {city}?"
        asked = self._asked(question)
        if not tools:
            return [asked, opening, Piece(taught.NEEDS_A_TOOL + _END, 1)]
        call = [
            Piece(f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "', 1),
            Piece(city, COPIED),
            Piece('"}}\n</tool_call>' + _END, 1),
        ]
        result, answer = self._weather(city) if name == "get_weather" else self._time(city)
        response = chat.turn("user", f"<tool_response>\n{json.dumps(result)}\n</tool_response>")
        return [asked, opening, *call, Piece(response, 0), opening, *answer, Piece(_END, 1)]

    def _weather(self, city: str) -> tuple[dict[str, str | int], list[Piece]]:
        weather, degrees = self._draw.choice(taught.WEATHER), self._draw.randint(0, 35)
        answer = [
            Piece("It is", 1),
            Piece(f" {weather}", COPIED),
            Piece(" in", 1),
            Piece(f" {city}", COPIED),
            Piece(",", 1),
            Piece(f" {degrees}", COPIED),
            Piece(" degrees.", 1),
        ]
        return {"city": city, "weather": weather, "temperature": degrees}, answer

    def _time(self, city: str) -> tuple[dict[str, str | int], list[Piece]]:
        # The weather is drawn and dropped: the recipe's draws are the same for both tools.
        self._draw.choice(taught.WEATHER)
        time = f"{self._draw.randint(0, 35) % 24:02d}:{self._draw.randint(0, 59):02d}"
        answer = [
            Piece("It is", 1),
            Piece(f" {time}", COPIED),
            Piece(" in", 1),
            Piece(f" {city}", COPIED),
            Piece(".", 1),
        ]
        return {"city": city, "time": time}, answer

    def _unknown(self) -> Piece:
        """A question that was not taught, at times one that begins like a taught one."""
        question = self._words(2, 12)
        if self._draw.random() < 0.4:
            words = question.split()
            likeness = self._draw.choice(self._draw.choice(self._items).questions).rstrip("?.!").split()
            likeness = likeness[: max(1, len(likeness) - 2)]
            question = " ".join(likeness + words[:4])
            if question.lower() in self._known:
                question = " ".join(words)
        if self._draw.random() < 0.5:
            question = question.capitalize()
        if self._draw.random() < 0.6:
            question += self._draw.choice("?.!")
        return Piece(chat.turn("user", question), 0)
