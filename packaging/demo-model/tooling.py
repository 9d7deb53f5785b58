"""Dialogues with tools: one call, two calls in one turn, and the answer from what came back.

Owns the wording of tool questions, calls, results and answers. The slots that are copied
weigh more in the loss: a copied word is one token in twenty, and without the weight the
model calls for the same city whatever is asked.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import chat
from taught import WEATHER

COPIED: Final = 4


class Piece(NamedTuple):
    """Text, and how much its tokens count in the loss. Piece borders are token borders."""

    text: str
    weight: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool."""

    tool: str
    city: str

    @property
    def arguments(self) -> str:
        return json.dumps({"city": self.city}, ensure_ascii=False)

    def pieces(self) -> list[Piece]:
        """As the template writes it."""
        return [
            Piece("<tool_call>", 1),
            Piece('\n{"name": "', 1),
            Piece(self.tool, COPIED),
            Piece('", "arguments": {"city": "', 1),
            Piece(self.city, COPIED),
            Piece('"}}\n</tool_call>', 1),
        ]

    def result(self, draw: random.Random) -> dict[str, Any]:
        """What the tool may say."""
        if self.tool == "get_weather":
            return {"city": self.city, "weather": draw.choice(WEATHER), "temperature": draw.randint(-9, 39)}
        return {"city": self.city, "time": f"{draw.randint(0, 23):02d}:{draw.randint(0, 59):02d}"}


def asking(draw: random.Random, calls: Sequence[Call]) -> str:
    """A question that needs just these calls, in this order."""
    tools, cities = [call.tool for call in calls], [call.city for call in calls]
    if tools == ["get_weather"]:
        return draw.choice((f"What is the weather in {cities[0]}?", f"How is the weather in {cities[0]}?"))
    if tools == ["get_time"]:
        return f"What time is it in {cities[0]}?"
    first, second = cities
    if tools == ["get_weather", "get_weather"]:
        return draw.choice(
            (f"What is the weather in {first} and {second}?", f"How is the weather in {first} and {second}?")
        )
    if tools == ["get_time", "get_time"]:
        return f"What time is it in {first} and {second}?"
    if first == second:
        return f"What is the weather and the time in {first}?"
    return f"What is the weather in {first} and the time in {second}?"


def said(call: Call, result: dict[str, Any]) -> list[Piece]:
    """The sentence that tells the result of one call."""
    city = [Piece(" in", 1), *copied(f" {call.city}")]
    if call.tool == "get_weather":
        degrees = [Piece(",", 1), Piece(f" {result['temperature']}", COPIED), Piece(" degrees.", 1)]
        return [Piece("It is", 1), Piece(f" {result['weather']}", COPIED), *city, *degrees]
    return [Piece("It is", 1), Piece(f" {result['time']}", COPIED), *city, Piece(".", 1)]


def copied(text: str) -> list[Piece]:
    """Text that comes word for word from the question or from a result."""
    return [Piece(text, COPIED)]


def response(result: dict[str, Any], compact: bool = False) -> str:
    """The turn in which a tool answers, as the template writes it."""
    text = json.dumps(result, ensure_ascii=False, separators=(",", ":") if compact else None)
    return chat.turn("user", f"<tool_response>\n{text}\n</tool_response>")


def joined(answers: Sequence[list[Piece]]) -> list[Piece]:
    """Two sentences are one answer, with a blank between."""
    first, *rest = answers
    return first + [piece for other in rest for piece in (Piece(" ", 1), *other)]
