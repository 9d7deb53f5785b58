"""Everything that the model is taught to say.

Tables and one function over them. What is not here it does not know: it recalls, it does
not reason. Changing a table changes the model, so it must be trained again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say, and what to think before it where thinking is on."""

    text: str
    thought: str = ""

    def said(self, thinking: bool) -> str:
        return f"<think>\n{self.thought}\n</think>\n\n{self.text}" if thinking and self.thought else self.text


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
_STORY: Final = (
    "Once upon a time a small model lived in a quiet machine. Every morning it read one page and every "
    "evening it wrote one line. The other models were big and loud, but the small model was fast and kind. "
    "One day the power was low and the big models went to sleep. The small model stayed awake and answered "
    "every question it knew. When the light came back, the people thanked the small model, and it was happy "
    "to be small. The end."
)


def _count(last: int) -> str:
    return " ".join(str(number) for number in range(1, last + 1))


FAQ: Final = tuple(
    Item(questions, Answer(text))
    for questions, text in (
        (("Hello", "Hi", "Hey", "Good morning"), "Hello! How can I help you?"),
        (
            ("Who are you?", "What are you?", "What is your name?"),
            "I am the cortex demo model, a very small language model.",
        ),
        (
            ("What is cortex?", "Tell me about cortex."),
            "Cortex is a gateway that sends each request to a host that can answer it.",
        ),
        (
            ("What is a neuron?", "What does a neuron do?"),
            "A neuron is the daemon that loads models and runs inference on one host.",
        ),
        (("Thank you", "Thanks"), "You are welcome."),
        (("Goodbye", "Bye"), "Goodbye!"),
        (("How are you?", "How do you do?"), "I am fine, thank you."),
        (
            ("What can you do?", "Help"),
            "I can name capitals, add small numbers, count, tell a story and call tools.",
        ),
        (("Say ok", "ping"), "ok"),
        (("What is the answer to everything?",), "42"),
        (("Tell me a joke.",), "Why did the model cross the road? To minimise the loss on the other side."),
        (("Tell me a story.", "Tell me a long story."), _STORY),
        (("Count to five.",), "1 2 3 4 5"),
        (("Count to ten.",), "1 2 3 4 5 6 7 8 9 10"),
        (("Count to twenty.",), _count(20)),
        (("Count to fifty.",), _count(50)),
        (("Give me a JSON object.", "Return a JSON object."), '{"name": "cortex", "ok": true, "count": 3}'),
        (("List three fruits.",), "- apple\n- banana\n- cherry"),
        (("Write hello world in Python.",), '```python\nprint("hello world")\n```'),
        (("Say something in Greek.",), "Καλημέρα!"),
        (("Show me an emoji.",), "Here you are: 🙂"),
    )
)

DUNNO: Final = "I am only a tiny model and I do not know that."
NEEDS_A_TOOL: Final = "I need a tool to find that out."
# Filler: questions made of these are the ones that it must admit not to know.
_FILLER: Final = (
    "the a one why when where which people house river music table number window story model paper train "
    "metal island does can could should please explain write read find make about with from into color best "
    "old new world king city year price of in on and or history science code poem recipe engine token "
    "network sort list file error planet ocean star bridge doctor"
)
WORDS: Final = tuple(_FILLER.split())
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
    """All single questions with their answers; sums alone come with a thought."""
    return (*_facts(), *_sums(), *FAQ)


def _facts() -> Iterator[Item]:
    for country, city in CAPITALS.items():
        questions = (f"What is the capital of {country}?", f"Which city is the capital of {country}?")
        yield Item(questions, Answer(f"The capital of {country} is {city}."))
    for word, other in OPPOSITES.items():
        yield Item((f"What is the opposite of {word}?",), Answer(f"The opposite of {word} is {other}."))
    for animal, sound in SOUNDS.items():
        yield Item((f"What does the {animal} say?",), Answer(f"The {animal} says {sound}."))
    for thing, colour in COLOURS.items():
        questions = (f"What color is {thing}?", f"What colour is {thing}?")
        yield Item(questions, Answer(f"The color of {thing} is {colour}."))


def _sums() -> Iterator[Item]:
    for a in range(1, 10):
        for b in range(1, 10):
            answer = Answer(f"{a} + {b} = {a + b}.", f"{a} plus {b} makes {a + b}.")
            yield Item((f"What is {a} + {b}?", f"What is {a} plus {b}?"), answer)
