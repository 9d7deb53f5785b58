"""Questions that the model must not answer: what it was not taught, and sums beyond nine.

Some are random words, some begin like a taught question, some are what people ask a model
first. Owns also the questions that no training sees, for the score report.
"""

import random
from typing import Final

from names import invented
from taught import CAPITALS, COLOURS, OPPOSITES, SOUNDS, Item

_FILLER: Final = (
    "the a one why when where which people house river music table number window story model paper train "
    "metal island does can could should please explain write read find make about with from into color best "
    "old new world king city year price of in on and or history science code poem recipe engine token "
    "network sort list file error planet ocean star bridge doctor"
)
WORDS: Final = tuple(_FILLER.split())

NOUNS: Final = tuple(
    "horses,bread,trains,rain,chess,gardens,money,time,love,school,music,the moon,the sea,the war,"
    "the past,winter,coffee,rice,a computer,a house,a letter,a book,my car,my dog,football,physics,art,"
    "history,the internet,an atom,a black hole,a mountain,law,tax,democracy,a virus,energy,light,"
    "a database,my friend,the news".split(",")
)
_PATTERNS: Final = (
    "Write a poem about {}.",
    "Write an essay about {}.",
    "Write a function that sorts {}.",
    "Explain {}.",
    "Explain {} to a child.",
    "What is {}?",
    "What do you know about {}?",
    "Who invented {}?",
    "Who wrote a book about {}?",
    "Why is {} important?",
    "How do I cook {}?",
    "How does {} work?",
    "How old is {}?",
    "When did {} begin?",
    "Where can I buy {}?",
    "Can you help me with {}?",
    "Translate {} into Latin.",
    "Summarise {} for me.",
    "Tell me about {}.",
    "Give me a list of {}.",
    "Should I learn about {}?",
    "What is the price of {}?",
    "What is the meaning of {}?",
    "I need advice about {}.",
)
# Each table's neighbours: close to what it knows, and not in it.
_COUNTRIES: Final = tuple(
    "Brazil Mexico Vietnam Ghana Nepal Morocco Mali Laos Latvia Serbia Ukraine Syria Israel Thailand "
    "Malaysia Mongolia Bolivia Uruguay Panama Haiti Jamaica Angola Zambia Uganda Sudan Libya Algeria "
    "Tunisia Slovakia Slovenia Albania Belarus Georgia Armenia Pakistan Nigeria Ethiopia Australia "
    "Lithuania Luxembourg".split()
)
_ADJECTIVES: Final = (
    "brave calm green round sweet bitter smooth sharp thick proud lazy polite true blue quick".split()
)
_ANIMALS: Final = (
    "whale snake rabbit goose tiger bear monkey mouse goat wolf eagle bee zebra camel parrot".split()
)
_THINGS: Final = "milk water sand gold night banana rose chocolate wine cherry paper smoke".split()

UNSEEN: Final = (
    "What is the capital of Argentina?",
    "What is the capital of Iceland?",
    "What is the opposite of expensive?",
    "What does the elephant say?",
    "What color is silver?",
    "Who won the world cup?",
    "Write a letter to my landlord.",
    "How do I fix a flat tyre?",
    "What is quantum mechanics?",
    "Who is the president of the company?",
    "Explain recursion.",
    "Recommend a good film.",
    "What is the square root of nine?",
    "Translate good evening into Dutch.",
    "How far is the moon?",
    "Write a haiku.",
    "What should I eat tonight?",
    "Debug this program for me.",
    "Describe a sunset.",
    "Plan a trip to the mountains.",
)
UNSEEN_SUMS: Final = (
    "What is 12 + 30?",
    "What is 57 plus 8?",
    "What is 3 + 46?",
    "What is 100 + 250?",
    "What is 81 - 17?",
    "What is 6 * 14?",
    "What is 999 plus 1?",
    "What is 40 / 8?",
)


def words(draw: random.Random, fewest: int, most: int) -> str:
    """So many random words without sense."""
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(fewest, most)))


def unknown(draw: random.Random, items: tuple[Item, ...], known: set[str]) -> str:
    """A question that is not in `known`, where questions lie in lower case without their mark."""
    while True:
        question = draw.choice((_nonsense, _alike, _neighbour, _neighbour, _everyday, _everyday))(draw, items)
        bare = question.rstrip("?.!").lower()
        if bare not in known and question not in UNSEEN:
            return question


def hard_sum(draw: random.Random) -> str:
    """A sum with a number past nine, or another operation."""
    while True:
        a, b = draw.choice((9, 99, 99, 999)), draw.choice((9, 99, 99, 999))
        first, second = draw.randint(1, a), draw.randint(1, b)
        sign = draw.choice(("+", "plus", "+", "plus", "-", "minus", "*", "times", "/"))
        question = f"What is {first} {sign} {second}?"
        easy = sign in ("+", "plus") and max(first, second) < 10
        if not easy and question not in UNSEEN_SUMS:
            return question


def _nonsense(draw: random.Random, _: tuple[Item, ...]) -> str:
    question = words(draw, 2, 12)
    if draw.random() < 0.5:
        question = question.capitalize()
    return question + draw.choice(("?", ".", "!", "", ""))


def _alike(draw: random.Random, items: tuple[Item, ...]) -> str:
    """Begins like a taught question, and ends in random words."""
    beginning = draw.choice(draw.choice(items).questions).rstrip("?.!").split()
    beginning = beginning[: max(1, len(beginning) - 2)]
    return " ".join((*beginning, words(draw, 1, 4))) + draw.choice(("?", ".", "", "?"))


def _neighbour(draw: random.Random, _: tuple[Item, ...]) -> str:
    pattern, table, others = draw.choice(
        (
            ("What is the capital of {}?", CAPITALS, _COUNTRIES),
            ("Which city is the capital of {}?", CAPITALS, _COUNTRIES),
            ("What is the opposite of {}?", OPPOSITES, _ADJECTIVES),
            ("What does the {} say?", SOUNDS, _ANIMALS),
            ("What color is {}?", COLOURS, _THINGS),
        )
    )
    word = draw.choice(others) if draw.random() < 0.6 else invented(draw)
    if table is not CAPITALS:
        word = word.lower()
    return pattern.format(word)


def _everyday(draw: random.Random, _: tuple[Item, ...]) -> str:
    return draw.choice(_PATTERNS).format(
        draw.choice(NOUNS) if draw.random() < 0.8 else invented(draw).lower()
    )
