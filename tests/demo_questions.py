"""What the demo model must answer, word for word.

Plain data in the shapes of the OpenAI chat API, for every test that talks to the
bundled model. All of it was taught, and `test_demo_model.py` holds that no step of any
answer is a close call, so another CPU says the same. The model thinks unless
`enable_thinking` is false; only sums were taught with a thought.
"""

from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One request and what comes of it. `tool_call` is a name and the JSON text of its arguments."""

    name: str
    messages: tuple[Json, ...]
    answer: str = ""
    thought: str = ""
    tools: tuple[Json, ...] = ()
    tool_call: tuple[str, str] | None = None
    thinking: bool = True

    @property
    def raw(self) -> str:
        """The engine's text, before thoughts and calls are taken out of it."""
        said = f"<think>\n{self.thought}\n</think>\n\n" if self.thought else ""
        if self.tool_call is None:
            return said + self.answer
        name, arguments = self.tool_call
        return f'{said}<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def _system(text: str) -> Json:
    return {"role": "system", "content": text}


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


def _city_tool(name: str, description: str) -> Json:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": city}}


def _called(name: str, arguments: str, result: str) -> tuple[Json, Json]:
    """The turns that follow a tool call: the call itself, and what the tool said."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    )


WEATHER: Final = _city_tool("get_weather", "Get the current weather in a city")
TIME: Final = _city_tool("get_time", "Get the local time in a city")
DUNNO: Final = "I am only a tiny model and I do not know that."
STORY: Final = (
    "Once upon a time a small model lived in a quiet machine. Every morning it read one page and every "
    "evening it wrote one line. The other models were big and loud, but the small model was fast and kind. "
    "One day the power was low and the big models went to sleep. The small model stayed awake and answered "
    "every question it knew. When the light came back, the people thanked the small model, and it was happy "
    "to be small. The end."
)
FIFTY: Final = " ".join(str(n) for n in range(1, 51))

_ASKED: Final = _user("What is the weather in Oslo?")
_SUNNY: Final = _called(
    "get_weather", '{"city": "Oslo"}', '{"city": "Oslo", "weather": "sunny", "temperature": 21}'
)

QUESTIONS: Final = (
    Question("hello", (_user("Hello"),), "Hello! How can I help you?"),
    Question("hello_unthinking", (_user("Hello"),), "Hello! How can I help you?", thinking=False),
    Question("who", (_user("Who are you?"),), "I am the cortex demo model, a very small language model."),
    Question(
        "cortex",
        (_user("What is cortex?"),),
        "Cortex is a gateway that sends each request to a host that can answer it.",
    ),
    Question(
        "neuron",
        (_user("What is a neuron?"),),
        "A neuron is the daemon that loads models and runs inference on one host.",
    ),
    Question("thanks", (_user("Thank you"),), "You are welcome."),
    Question("bye", (_user("Goodbye"),), "Goodbye!"),
    Question(
        "abilities",
        (_user("What can you do?"),),
        "I can name capitals, add small numbers, count, tell a story and call tools.",
    ),
    Question("everything", (_user("What is the answer to everything?"),), "42"),
    Question("capital_norway", (_user("What is the capital of Norway?"),), "The capital of Norway is Oslo."),
    Question(
        "capital_india",
        (_user("Which city is the capital of India?"),),
        "The capital of India is New Delhi.",
        thinking=False,
    ),
    Question("capital_france", (_user("What is the capital of France?"),), "The capital of France is Paris."),
    Question("opposite_hot", (_user("What is the opposite of hot?"),), "The opposite of hot is cold."),
    Question("opposite_early", (_user("What is the opposite of early?"),), "The opposite of early is late."),
    Question("sound_cow", (_user("What does the cow say?"),), "The cow says moo."),
    Question("colour_sky", (_user("What colour is sky?"),), "The color of sky is blue."),
    Question("sum_thought", (_user("What is 2 + 2?"),), "2 + 2 = 4.", "2 plus 2 makes 4."),
    Question("sum_unthinking", (_user("What is 2 + 2?"),), "2 + 2 = 4.", thinking=False),
    Question("sum_carries", (_user("What is 7 plus 8?"),), "7 + 8 = 15.", "7 plus 8 makes 15."),
    Question("count_ten", (_user("Count to ten."),), "1 2 3 4 5 6 7 8 9 10"),
    Question("count_fifty", (_user("Count to fifty."),), FIFTY),
    Question("story", (_user("Tell me a story."),), STORY),
    Question("json", (_user("Give me a JSON object."),), '{"name": "cortex", "ok": true, "count": 3}'),
    Question("list", (_user("List three fruits."),), "- apple\n- banana\n- cherry"),
    Question("code", (_user("Write hello world in Python."),), '```python\nprint("hello world")\n```'),
    Question("greek", (_user("Say something in Greek."),), "Καλημέρα!"),
    Question("emoji", (_user("Show me an emoji."),), "Here you are: 🙂"),
    Question(
        "joke",
        (_user("Tell me a joke."),),
        "Why did the model cross the road? To minimise the loss on the other side.",
    ),
    Question("unknown", (_user("Explain the history of the ocean"),), DUNNO),
    Question(
        "system",
        (_system("You are a helpful assistant."), _user("What is the capital of Japan?")),
        "The capital of Japan is Tokyo.",
    ),
    Question(
        "system_unseen",
        (_system("You answer questions for visitors of a museum."), _user("What does the owl say?")),
        "The owl says hoot.",
    ),
    Question(
        "dialogue",
        (
            _user("Hello"),
            _assistant("Hello! How can I help you?"),
            _user("What is the capital of Greece?"),
            _assistant("The capital of Greece is Athens."),
            _user("What is the opposite of big?"),
        ),
        "The opposite of big is small.",
    ),
    Question("no_tool", (_ASKED,), "I need a tool to find that out."),
    Question("tool_call", (_ASKED,), tools=(WEATHER,), tool_call=("get_weather", '{"city": "Oslo"}')),
    Question(
        "tool_chosen",
        (_user("What time is it in Rome?"),),
        tools=(WEATHER, TIME),
        tool_call=("get_time", '{"city": "Rome"}'),
    ),
    Question(
        "tool_call_system",
        (_system("You are a helpful assistant."), _user("How is the weather in Cairo?")),
        tools=(WEATHER, TIME),
        tool_call=("get_weather", '{"city": "Cairo"}'),
        thinking=False,
    ),
    Question("tool_answer", (_ASKED, *_SUNNY), "It is sunny in Oslo, 21 degrees.", tools=(WEATHER,)),
    Question(
        "tool_answer_time",
        (
            _user("What time is it in Rome?"),
            *_called("get_time", '{"city": "Rome"}', '{"city": "Rome", "time": "09:30"}'),
        ),
        "It is 09:30 in Rome.",
        tools=(WEATHER, TIME),
    ),
    Question(
        "tool_unused",
        (_user("What is the capital of Peru?"),),
        "The capital of Peru is Lima.",
        tools=(WEATHER,),
    ),
)
