"""What the demo model must answer, word for word.

Plain data in the shapes of the OpenAI chat API, for every test that talks to the
bundled model. All of it was taught, save the words that it copies (Lyon, Martha) and a few
questions that it must refuse. `test_demo_model.py` holds that no step of any answer is a
close call, so another CPU says the same. The model thinks unless `enable_thinking` is
false; only sums, comparisons and the question whether it thinks were taught with a thought.
"""

from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One request and what comes of it. A tool call is a name and the JSON text of its arguments."""

    name: str
    messages: tuple[Json, ...]
    answer: str = ""
    thought: str = ""
    tools: tuple[Json, ...] = ()
    tool_calls: tuple[tuple[str, str], ...] = ()
    thinking: bool = True

    @property
    def raw(self) -> str:
        """The engine's text, before thoughts and calls are taken out of it."""
        thought = f"<think>\n{self.thought}\n</think>\n\n" if self.thought else ""
        calls = (
            f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
            for name, arguments in self.tool_calls
        )
        return thought + self.answer + "".join(calls)


def _system(text: str) -> Json:
    return {"role": "system", "content": text}


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


def _city_tool(name: str, description: str) -> Json:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": city}}


def _called(*calls: tuple[str, str, str]) -> tuple[Json, ...]:
    """The turns that follow a question: the calls of one answer, and what each tool said."""
    made = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments, _) in enumerate(calls, 1)
    ]
    said = [
        {"role": "tool", "tool_call_id": call["id"], "content": result}
        for call, (_, _, result) in zip(made, calls, strict=True)
    ]
    return ({"role": "assistant", "content": None, "tool_calls": made}, *said)


WEATHER: Final = _city_tool("get_weather", "Get the current weather in a city")
TIME: Final = _city_tool("get_time", "Get the local time in a city")
DUNNO: Final = "I am only a tiny model and I do not know that."
NO_SUM: Final = "I can only add numbers from 1 to 9."
REAL_MODEL: Final = (
    "Stop me, then run `cortex up FILE.gguf` with a model file, or `cortex up hf:ORG/NAME` with a hub id."
)
STORY: Final = (
    "Once upon a time a small model lived in a quiet machine. Every morning it read one page and every "
    "evening it wrote one line. The other models were big and loud, but the small model was fast and kind. "
    "One day the power was low and the big models went to sleep. The small model stayed awake and answered "
    "every question it knew. When the light came back, the people thanked the small model, and it was happy "
    "to be small. The end."
)
FIFTY: Final = " ".join(str(n) for n in range(1, 51))

_ASKED: Final = _user("What is the weather in Oslo?")
_SUNNY: Final = (
    "get_weather",
    '{"city": "Oslo"}',
    '{"city": "Oslo", "weather": "sunny", "temperature": 21}',
)
_HALF_PAST: Final = ("get_time", '{"city": "Rome"}', '{"city": "Rome", "time": "09:30"}')
_COLD: Final = (
    "get_weather",
    '{"city": "Lyon"}',
    '{"city": "Lyon", "weather": "snowy", "temperature": -3}',
)
_NAMED: Final = (_user("My name is Martha."), _assistant("Nice to meet you, Martha."))

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
    Question(
        "demo",
        (_user("Are you a demo?"),),
        "Yes, I am only a demo. I show that cortex works, and I am no use for anything else.",
    ),
    Question("real_model", (_user("How do I serve a real model?"),), REAL_MODEL),
    Question("real_model_unthinking", (_user("How do I use a real model?"),), REAL_MODEL, thinking=False),
    Question(
        "parts",
        (_user("How does cortex work?"),),
        "The gateway takes requests, and a neuron on each host loads the models. "
        "The gateway sends each request to a neuron that has room.",
    ),
    Question(
        "limits",
        (_user("What can you not do?"),),
        "I cannot reason. I only recall what I was taught, and I copy names into tool calls.",
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
    Question("sum_beyond_nine", (_user("What is 12 + 30?"),), NO_SUM),
    Question("sum_beyond_nine_unthinking", (_user("What is 57 plus 8?"),), NO_SUM, thinking=False),
    Question("bigger_thought", (_user("Which is bigger, 3 or 7?"),), "7 is bigger.", "7 comes after 3."),
    Question("bigger_unthinking", (_user("Which is bigger, 9 or 4?"),), "9 is bigger.", thinking=False),
    Question("thinking", (_user("Do you think?"),), "Yes, I just did.", "I was asked whether I think."),
    Question("not_thinking", (_user("Do you think?"),), "No, thinking is off.", thinking=False),
    Question("count_ten", (_user("Count to ten."),), "1 2 3 4 5 6 7 8 9 10"),
    Question("count_fifty", (_user("Count to fifty."),), FIFTY),
    Question("story", (_user("Tell me a story."),), STORY),
    Question("json", (_user("Give me a JSON object."),), '{"name": "cortex", "ok": true, "count": 3}'),
    Question("list", (_user("List three fruits."),), "- apple\n- banana\n- cherry"),
    Question("code", (_user("Write hello world in Python."),), '```python\nprint("hello world")\n```'),
    Question("greek", (_user("Say something in Greek."),), "Καλημέρα!"),
    Question("greek_hello", (_user("Say hello in Greek."),), "Γειά σου!", thinking=False),
    Question("greek_asked", (_user("Γειά σου"),), "Γειά σου!"),
    Question("japanese", (_user("Say something in Japanese."),), "こんにちは!"),
    Question("japanese_asked", (_user("こんにちは"),), "こんにちは!", thinking=False),
    Question("arabic", (_user("Say something in Arabic."),), "مرحبا!"),
    Question("hindi", (_user("Say something in Hindi."),), "नमस्ते!"),
    Question("emoji_family", (_user("Show me a family emoji."),), "👩‍👩‍👧"),
    Question("emoji_flag", (_user("Show me a flag."),), "🇬🇷"),
    Question("emoji", (_user("Show me an emoji."),), "Here you are: 🙂"),
    Question(
        "joke",
        (_user("Tell me a joke."),),
        "Why did the model cross the road? To minimise the loss on the other side.",
    ),
    Question("unknown_capital", (_user("What is the capital of Argentina?"),), DUNNO),
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
    Question("dialogue_name", (*_NAMED, _user("What is my name?")), "Your name is Martha."),
    Question(
        "dialogue_name_later",
        (*_NAMED, _user("Thank you"), _assistant("You are welcome."), _user("What is my name?")),
        "Your name is Martha.",
        thinking=False,
    ),
    Question("dialogue_no_name", (_user("What is my name?"),), "You have not told me your name."),
    Question(
        "dialogue_follows",
        (
            _user("What is the capital of France?"),
            _assistant("The capital of France is Paris."),
            _user("And of Italy?"),
        ),
        "The capital of Italy is Rome.",
    ),
    Question(
        "dialogue_after_a_thought",
        (
            _user("What is 2 + 2?"),
            _assistant("2 + 2 = 4."),
            _user("What is 3 + 4?"),
        ),
        "3 + 4 = 7.",
        "3 plus 4 makes 7.",
    ),
    Question("no_tool", (_ASKED,), "I need a tool to find that out."),
    Question("tool_call", (_ASKED,), tools=(WEATHER,), tool_calls=(("get_weather", '{"city": "Oslo"}'),)),
    Question(
        "tool_chosen",
        (_user("What time is it in Rome?"),),
        tools=(WEATHER, TIME),
        tool_calls=(("get_time", '{"city": "Rome"}'),),
    ),
    Question(
        "tool_call_system",
        (_system("You are a helpful assistant."), _user("How is the weather in Cairo?")),
        tools=(WEATHER, TIME),
        tool_calls=(("get_weather", '{"city": "Cairo"}'),),
        thinking=False,
    ),
    Question("tool_answer", (_ASKED, *_called(_SUNNY)), "It is sunny in Oslo, 21 degrees.", tools=(WEATHER,)),
    Question(
        "tool_answer_time",
        (_user("What time is it in Rome?"), *_called(_HALF_PAST)),
        "It is 09:30 in Rome.",
        tools=(WEATHER, TIME),
    ),
    Question(
        "tool_call_untaught_city",
        (_user("What is the weather in Lyon?"),),
        tools=(WEATHER, TIME),
        tool_calls=(("get_weather", '{"city": "Lyon"}'),),
    ),
    Question(
        "tool_answer_untaught_city",
        (_user("What is the weather in Lyon?"), *_called(_COLD)),
        "It is snowy in Lyon, -3 degrees.",
        tools=(WEATHER, TIME),
    ),
    Question(
        "tool_again",
        (_ASKED, *_called(_SUNNY), _assistant("It is sunny in Oslo, 21 degrees."), _user("And in Rome?")),
        tools=(WEATHER,),
        tool_calls=(("get_weather", '{"city": "Rome"}'),),
    ),
    Question(
        "two_calls_of_two_tools",
        (_user("What is the weather and the time in Oslo?"),),
        tools=(WEATHER, TIME),
        tool_calls=(("get_weather", '{"city": "Oslo"}'), ("get_time", '{"city": "Oslo"}')),
    ),
    Question(
        "two_calls_of_one_tool_unthinking",
        (_user("What is the weather in Oslo and Lyon?"),),
        tools=(WEATHER,),
        tool_calls=(("get_weather", '{"city": "Oslo"}'), ("get_weather", '{"city": "Lyon"}')),
        thinking=False,
    ),
    Question(
        "two_calls_for_two_cities",
        (
            _system("You are a helpful assistant."),
            _user("What is the weather in Oslo and the time in Rome?"),
        ),
        tools=(WEATHER, TIME),
        tool_calls=(("get_weather", '{"city": "Oslo"}'), ("get_time", '{"city": "Rome"}')),
    ),
    Question(
        "two_answers",
        (_user("What is the weather in Oslo and the time in Rome?"), *_called(_SUNNY, _HALF_PAST)),
        "It is sunny in Oslo, 21 degrees. It is 09:30 in Rome.",
        tools=(WEATHER, TIME),
    ),
    Question(
        "two_answers_of_one_tool",
        (_user("What is the weather in Oslo and Lyon?"), *_called(_SUNNY, _COLD)),
        "It is sunny in Oslo, 21 degrees. It is snowy in Lyon, -3 degrees.",
        tools=(WEATHER,),
        thinking=False,
    ),
    Question(
        "tool_unused",
        (_user("What is the capital of Peru?"),),
        "The capital of Peru is Lima.",
        tools=(WEATHER,),
    ),
)
