"""The shapes in which a dialogue is offered to a template lose no word."""

import pytest

from cortex.ask import Message, ToolUse
from cortex.text.turns import forms

RULE, MORE = Message("system", "Be terse."), Message("system", "And kind.")
HI, THERE, YES = Message("user", "Hi"), Message("user", "There?"), Message("assistant", "Yes.")
CALL = Message("assistant", "A", tool_calls=(ToolUse("1", "f", "{}"),))
RESULT = Message("tool", "12:00", tool_call_id="1")
BOTH = Message("system", "Be terse.\n\nAnd kind.")


@pytest.mark.parametrize(
    ("given", "others"),
    [
        ([HI], []),
        ([RULE, HI, YES, THERE], []),
        ([RULE, MORE, HI], [[BOTH, HI]]),
        ([RULE, HI, MORE, THERE], [[BOTH, HI, THERE], [BOTH, Message("user", "Hi\n\nThere?")]]),
        ([HI, RULE], [[RULE, HI]]),
        ([HI, THERE, YES], [[Message("user", "Hi\n\nThere?"), YES]]),
        ([HI, CALL, CALL, RESULT, RESULT, YES], []),
        ([HI, YES, CALL, RESULT], []),
        ([HI, Message("user"), YES], [[HI, YES]]),
        (
            [HI, Message("assistant", thought="hm"), Message("assistant", "Yes.", thought="ok")],
            [[HI, Message("assistant", "Yes.", thought="hm\n\nok")]],
        ),
    ],
)
def test_a_dialogue_is_offered_as_it_is_and_then_joined(given: list[Message], others: list[list[Message]]):
    assert [list(form) for form in forms(given)] == [given, *others]
