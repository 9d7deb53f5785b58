"""Places and people: the words that the model must copy rather than know.

Most names of a training are invented, another one each time, so nothing but copying gives
the right answer. Owns also the names that no training ever sees: the score report counts
those apart, as they alone show that copying was learnt.
"""

import random
from typing import Final

PLACES: Final = (
    *(
        "Amsterdam Bangkok Baltimore Bergen Birmingham Bogota Bristol Calgary Caracas Casablanca Chicago "
        "Cologne Dakar Dallas Denver Dresden Dubai Durban Edinburgh Frankfurt Gdansk Glasgow Hamburg "
        "Hanoi Houston Jakarta Karachi Krakow Kyoto Lahore Leeds Leipzig Liverpool London Malaga Manila "
        "Marseille Medina Melbourne Miami Montreal Nagoya Odessa Oxford Perth Phoenix Portland Quito Riga "
        "Rotterdam Salzburg Samara Shanghai Split Stuttgart Toronto Toulouse Turin Utrecht Valencia "
        "Venice Zurich"
    ).split(),
    "Cape Town",
    "Hong Kong",
    "Las Vegas",
    "Mexico City",
    "Rio Grande",
    "San Marino",
)
UNSEEN_PLACES: Final = (
    *(
        "Lyon Geneva Osaka Boston Porto Munich Seville Lagos Mumbai Sydney Milan Naples Seattle Bilbao "
        "Basel Antwerp Adelaide Vilnius Florence Gothenburg Kampala Nantes"
    ).split(),
    "New York",
    "San Diego",
)
PEOPLE: Final = tuple(
    "Adam Alice Amir Anna Bella Ben Carla Chen Clara Daniel David Elena Emma Eric Eva Fatima Felix "
    "Grace Hana Henry Ida Ivan Jack Jane John Julia Karl Kate Laura Leo Lina Lucas Maria Mark Maya "
    "Mia Nina Noah Olga Omar Otto Paul Peter Priya Rosa Sam Sara Simon Sofia Tom Vera Yuki Zoe".split()
)
UNSEEN_PEOPLE: Final = ("Martha", "Oliver", "Ingrid", "Tariq", "Naomi", "Bruno", "Wendy", "Hugo")

_STARTS: Final = "b c d f g h j k l m n p r s t v w z br ch cl dr fr gr kr pl pr sh sl sn st th tr".split()
_VOWELS: Final = "a e i o u a e i o u ai au ea ee ia ie io oo ou y".split()
_ENDS: Final = ("", "", "", "", "l", "m", "n", "r", "s", "t", "ck", "ld", "ll", "n", "nd", "ng", "rg", "st")
# Copying a letter that comes twice in a row is harder than it looks.
_DOUBLES: Final = ("tt", "nn", "ss", "pp", "rr", "ff", "tt")


def invented(draw: random.Random) -> str:
    """A name that very likely nobody has: one to three syllables with a capital letter."""
    while True:
        name = _letters(draw).capitalize()
        if name not in UNSEEN_PLACES and name not in UNSEEN_PEOPLE:
            return name


def _letters(draw: random.Random) -> str:
    if draw.random() < 0.1:
        return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(3, 8)))
    syllables = (
        draw.choice(_STARTS) + draw.choice(_VOWELS) + draw.choice(_ENDS + _DOUBLES)
        for _ in range(draw.choice((1, 2, 2, 2, 3)))
    )
    return "".join(syllables)[draw.random() < 0.2 :]  # some begin with a vowel


def place(draw: random.Random, known: tuple[str, ...]) -> str:
    """A city to ask about: one of `known`, one of the others, or an invented one."""
    kind = draw.random()
    if kind < 0.3:
        return draw.choice(known)
    if kind < 0.5:
        return draw.choice(PLACES)
    return f"{invented(draw)} {invented(draw)}" if kind < 0.6 else invented(draw)


def person(draw: random.Random) -> str:
    """A given name, or an invented one."""
    return draw.choice(PEOPLE) if draw.random() < 0.5 else invented(draw)
