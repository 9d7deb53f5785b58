"""Everything that the model is taught to say.

Tables and one function over them. What is not here it does not know: it recalls, it does
not reason. Changing a table changes the model, so it must be trained again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, Final

from lore import LORE


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say, and what to think before it where thinking is on."""

    text: str
    thought: str = ""
    unthinking: str = ""  # what to say instead where thinking is off

    def plain(self, thinking: bool) -> str:
        """The answer without its thought."""
        return self.text if thinking else self.unthinking or self.text


@dataclass(frozen=True, slots=True)
class Item:
    """Ways to ask, and the one answer."""

    questions: tuple[str, ...]
    answer: Answer


CAPITALS: Final = {
    "France": "Paris",
    "Norway": "Oslo",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Austria": "Vienna",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Ireland": "Dublin",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Hungary": "Budapest",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "India": "New Delhi",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Russia": "Moscow",
    "Turkey": "Ankara",
    "Bulgaria": "Sofia",
    "Romania": "Bucharest",
    "Croatia": "Zagreb",
    "Belgium": "Brussels",
    "Estonia": "Tallinn",
}
OPPOSITES: Final = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "happy": "sad",
    "light": "dark",
    "up": "down",
    "open": "closed",
    "early": "late",
    "hard": "soft",
    "young": "old",
    "rich": "poor",
    "wet": "dry",
    "long": "short",
    "loud": "quiet",
    "clean": "dirty",
    "full": "empty",
    "strong": "weak",
    "high": "low",
    "near": "far",
    "good": "bad",
}
SOUNDS: Final = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "horse": "neigh",
    "lion": "roar",
    "frog": "ribbit",
    "owl": "hoot",
}
COLOURS: Final = {
    "grass": "green",
    "sky": "blue",
    "snow": "white",
    "coal": "black",
    "blood": "red",
    "lemon": "yellow",
    "carrot": "orange",
    "cloud": "grey",
}
THINKS: Final = "Do you think?"
FAQ: Final = (
    *(Item(questions, Answer(text)) for questions, text in LORE),
    Item(
        (THINKS, "Are you thinking?", "Is thinking on?"),
        Answer("Yes, I just did.", "I was asked whether I think.", "No, thinking is off."),
    ),
)

DUNNO: Final = "I am only a tiny model and I do not know that."
NO_SUM: Final = "I can only add numbers from 1 to 9."
NO_NAME: Final = "You have not told me your name."
NEEDS_A_TOOL: Final = "I need a tool to find that out."
SYSTEMS: Final = (
    "You are a helpful assistant.",
    "You are cortex, a small and honest assistant.",
    "Answer briefly.",
    "You are a helpful assistant. Answer in one sentence.",
    "Be kind and precise.",
)
WEATHER: Final = ("sunny", "rainy", "cloudy", "windy", "snowy")
CITIES: Final = tuple(sorted(CAPITALS.values()))


def _city_tool(name: str, description: str) -> dict[str, Any]:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": city}}


TOOLS: Final = {
    "get_weather": _city_tool("get_weather", "Get the current weather in a city"),
    "get_time": _city_tool("get_time", "Get the local time in a city"),
}


def items() -> tuple[Item, ...]:
    """All single questions with their answers."""
    return (*facts(), *sums(), *comparisons(), *FAQ)


def facts() -> tuple[Item, ...]:
    """One item for each entry of the tables."""
    return (*capitals(), *opposites(), *_sounds_and_colours())


def capitals() -> Iterator[Item]:
    for country, city in CAPITALS.items():
        questions = (f"What is the capital of {country}?", f"Which city is the capital of {country}?")
        yield Item(questions, Answer(f"The capital of {country} is {city}."))


def opposites() -> Iterator[Item]:
    for word, other in OPPOSITES.items():
        yield Item((f"What is the opposite of {word}?",), Answer(f"The opposite of {word} is {other}."))


def _sounds_and_colours() -> Iterator[Item]:
    for animal, sound in SOUNDS.items():
        yield Item((f"What does the {animal} say?",), Answer(f"The {animal} says {sound}."))
    for thing, colour in COLOURS.items():
        questions = (f"What color is {thing}?", f"What colour is {thing}?")
        yield Item(questions, Answer(f"The color of {thing} is {colour}."))


def sums() -> Iterator[Item]:
    """These have a thought, so that thinking can be seen."""
    for a, b in product(range(1, 10), repeat=2):
        answer = Answer(f"{a} + {b} = {a + b}.", f"{a} plus {b} makes {a + b}.")
        yield Item((f"What is {a} + {b}?", f"What is {a} plus {b}?"), answer)


def comparisons() -> Iterator[Item]:
    """These too."""
    for a, b in permutations(range(1, 10), 2):
        more, less = max(a, b), min(a, b)
        answer = Answer(f"{more} is bigger.", f"{more} comes after {less}.")
        yield Item((f"Which is bigger, {a} or {b}?",), answer)
