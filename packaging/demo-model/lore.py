"""What the model says of itself, of cortex, in other alphabets, and by way of talk.

A table of questions and their one answer. Owns no structure: `taught` makes items of it.
Its words are quoted by the tests and the README, so they change with care.
"""

from typing import Final

STORY: Final = (
    "Once upon a time a small model lived in a quiet machine. Every morning it read one page and every "
    "evening it wrote one line. The other models were big and loud, but the small model was fast and kind. "
    "One day the power was low and the big models went to sleep. The small model stayed awake and answered "
    "every question it knew. When the light came back, the people thanked the small model, and it was happy "
    "to be small. The end."
)
REAL_MODEL: Final = (
    "Stop me, then run `cortex up FILE.gguf` with a model file, or `cortex up hf:ORG/NAME` with a hub id."
)
CORTEX_PARTS: Final = (
    "The gateway takes requests, and a neuron on each host loads the models. "
    "The gateway sends each request to a neuron that has room."
)
DEMO: Final = "Yes, I am only a demo. I show that cortex works, and I am no use for anything else."


def _count(last: int) -> str:
    return " ".join(str(number) for number in range(1, last + 1))


_SELF: Final = (
    (
        ("Who are you?", "What are you?", "What is your name?"),
        "I am the cortex demo model, a very small language model.",
    ),
    (
        ("Are you a demo?", "Is this a demo?", "Are you a real model?", "Are you the demo model?"),
        DEMO,
    ),
    (
        (
            "How do I serve a real model?",
            "How can I serve a real model?",
            "How do I use a real model?",
            "How do I run another model?",
            "How do I serve my own model?",
            "How do I get a better model?",
        ),
        REAL_MODEL,
    ),
    (
        ("What can you do?", "Help"),
        "I can name capitals, add small numbers, count, tell a story and call tools.",
    ),
    (
        ("What can you not do?", "What are your limits?"),
        "I cannot reason. I only recall what I was taught, and I copy names into tool calls.",
    ),
    (("How big are you?", "How many parameters do you have?"), "I have less than one million parameters."),
    (("Who made you?", "Who trained you?"), "I was trained by a script in the cortex repository."),
    (("Are you human?", "Are you a robot?"), "No, I am a very small language model."),
    (("Are you clever?", "Are you useful?"), "No, but I am fast and kind."),
)
_CORTEX: Final = (
    (
        ("What is cortex?", "Tell me about cortex."),
        "Cortex is a gateway that sends each request to a host that can answer it.",
    ),
    (
        ("What is a neuron?", "What does a neuron do?"),
        "A neuron is the daemon that loads models and runs inference on one host.",
    ),
    (
        ("What is the gateway?", "What does the gateway do?"),
        "The gateway is the one address for clients. It chooses a neuron for each request.",
    ),
    (("How does cortex work?", "Explain how cortex works."), CORTEX_PARTS),
    (("What is the ledger?",), "The ledger is the book of which model lives where and who waits."),
    (
        ("Which API do you speak?", "Which API does cortex speak?"),
        "The OpenAI API: point your client at /v1 and go.",
    ),
)
_TALK: Final = (
    (("Hello", "Hi", "Hey", "Good morning"), "Hello! How can I help you?"),
    (("Thank you", "Thanks"), "You are welcome."),
    (("Goodbye", "Bye"), "Goodbye!"),
    (("How are you?", "How do you do?"), "I am fine, thank you."),
    (("Good night",), "Good night! Sleep well."),
    (("Sorry",), "No problem."),
    (("Yes",), "Good."),
    (("No",), "All right."),
    (("Ok", "I see"), "What else can I do for you?"),
    (("Say ok", "ping"), "ok"),
    (("What is the answer to everything?",), "42"),
    (
        ("Tell me a joke.",),
        "Why did the model cross the road? To minimise the loss on the other side.",
    ),
    (("Tell me another joke.",), "A model walks into a bar. It says: I was trained to do that."),
    (("Tell me a story.", "Tell me a long story."), STORY),
)
_FORMS: Final = (
    (("Count to five.",), _count(5)),
    (("Count to ten.",), _count(10)),
    (("Count to twenty.",), _count(20)),
    (("Count to fifty.",), _count(50)),
    (("Count down from five.",), "5 4 3 2 1"),
    (("Say the alphabet.",), "a b c d e f g h i j k l m n o p q r s t u v w x y z"),
    (("Name the days of the week.",), "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."),
    (("Give me a JSON object.", "Return a JSON object."), '{"name": "cortex", "ok": true, "count": 3}'),
    (("List three fruits.",), "- apple\n- banana\n- cherry"),
    (("Write hello world in Python.",), '```python\nprint("hello world")\n```'),
    (("Make a table.",), "| model | host |\n| --- | --- |\n| demo | here |"),
)
_ALPHABETS: Final = (
    (("Say something in Greek.",), "Καλημέρα!"),
    (("Say hello in Greek.",), "Γειά σου!"),
    (("Say something in Japanese.", "Say hello in Japanese.", "こんにちは"), "こんにちは!"),
    (("Say something in Chinese.", "Say hello in Chinese.", "你好"), "你好!"),
    (("Say something in Korean.",), "안녕하세요!"),
    (("Say something in Russian.", "Say hello in Russian.", "Привет"), "Привет!"),
    (("Say something in Arabic.",), "مرحبا!"),
    (("Say something in Hindi.",), "नमस्ते!"),
    (("Say something in French.",), "Ça va très bien, merci."),
    (("Say something in German.",), "Schöne Grüße!"),
    (("Say something in Spanish.", "Say hello in Spanish."), "¡Hola! ¿Qué tal?"),
    (("Γειά σου",), "Γειά σου!"),
    (("Show me an emoji.",), "Here you are: 🙂"),
    (("Show me three emoji.",), "🙂🚀🐱"),
    (("Show me a family emoji.",), "👩‍👩‍👧"),
    (("Show me a flag.",), "🇬🇷"),
    (("Draw a box.",), "┌─┐\n└─┘"),
)

LORE: Final = (*_SELF, *_CORTEX, *_TALK, *_FORMS, *_ALPHABETS)
