"""`cortex keys new`: what it prints where, and that a gateway takes it."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cortex.cli import main
from cortex.config.gateway import read_gateway
from cortex.config.keys import Key
from cortex.keys import digest

KEY = re.compile(r"sk-cortex-[A-Za-z0-9]{43}")


def keys_new(*words: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as left:
        main(["keys", "new", *words])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_what_is_printed_can_be_appended_to_the_gateways_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cortex.toml"
    file.write_text('[[neurons]]\nname = "n"\nendpoint = "http://n:1"')  # no line end
    secrets = []
    limits = ("max_in_flight=2", "requests_per_minute=3", "tokens_per_day=4", "expires=2030-12-30", "share=2")
    said = [word for each in ("models=qwen/*", "models=fast", *limits) for word in ("--set", each)]
    for words in (["ann"], ["42", "--scope", "admin", "--scope", "inference", *said]):
        assert keys_new(*words) == 0
        shown = capsys.readouterr()
        secrets += KEY.findall(shown.err)
        assert KEY.search(shown.out) is None, "the key never lands in the file"
        file.write_text(file.read_text() + shown.out)
    config, warnings = read_gateway(file, {})
    assert warnings == [] and len(secrets) == 2
    assert config.keys == (
        Key("ann", digest(secrets[0])),
        Key(
            "42",
            digest(secrets[1]),
            ("admin", "inference"),
            ("qwen/*", "fast"),
            max_in_flight=2,
            requests_per_minute=3,
            tokens_per_day=4,
            expires=datetime(2030, 12, 31, tzinfo=UTC),
            share=2.0,
        ),
    )


def test_as_json_key_and_entry_are_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys_new("ann", "--json") == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert shown.err == ""
    assert KEY.fullmatch(told["key"]) and told["name"] == "ann"
    assert told["sha256"] == digest(told["key"]) and f'"{told["sha256"]}"' in told["entry"]


@pytest.mark.parametrize(
    ("said", "number"), [("0.5", 0.5), ("2e1", 20.0), ("+3", 3.0), ("1_0.0", 10.0), ("0x10", 16.0)]
)
def test_a_share_is_any_number_of_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, number: float
) -> None:
    assert keys_new("ann", "--set", f"share={said}") == 0
    file = tmp_path / "cortex.toml"
    file.write_text('[[neurons]]\nname = "n"\nendpoint = "http://n:1"\n' + capsys.readouterr().out)
    config, _ = read_gateway(file, {})
    assert config.keys[0].share == number


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a", "--set", "share=half"], "keys[0].share: must be a number"),
        (["a", "--set", "share=0.001"], "keys[0].share: must be 0.01 to 1000"),
        (["a", "--set", "share=1 # 2"], "keys[0].share: must be a number"),
        (["a", "--set", f"max_in_flight={'9' * 5000}"], "keys[0].max_in_flight: must be"),
        (["a b"], "keys[0].name: must be a name"),
        (["a", "--set", "expires=soon"], "keys[0].expires: must be a date"),
        (["a", "--set", "max_in_flight=0"], "keys[0].max_in_flight: must be 1 to 100000"),
        (["a", "--set", "max_in_flight=few"], "keys[0].max_in_flight: must be a whole number"),
        (["a", "--set", "models=a b"], "keys[0].models[0]: must be a glob"),
        (["a", "--set", "modells=a"], "keys[0].modells: unknown key; did you mean 'models'?"),
        (["a", "--set", "a'\n\"\x7f=1"], "unknown key"),
        (["a", "--set", "max_in_flight=1", "--set", "max_in_flight=2"], "max_in_flight is said twice"),
        (["a", "--set", "models"], "--set takes KEY=VALUE"),
        (["a", "--set", f"sha256={'0' * 64}"], "--set takes KEY=VALUE"),
        (["a", "--scope", "root"], "--scope"),
    ],
)
def test_what_a_gateway_would_not_take_is_told_and_no_key_is_made(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys_new(*words) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.out == "" and KEY.search(shown.err) is None
