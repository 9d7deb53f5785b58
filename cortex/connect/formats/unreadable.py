"""What a text that cannot be read or changed says of itself; whoever has its path adds that."""


class Unreadable(ValueError):
    """The text is no settings file, or is laid out in a way that cannot be changed safely."""
