"""A model's chat template is found in the order of the conventions, or its fault is named."""

import json
import os
from pathlib import Path

import pytest

from cortex.errors import Unfit
from cortex.harness.base import LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.weights import TemplateSources, read_gguf, stamp, templates_of
from cortex.weights.templates import MOST_BYTES
from tests.fake_gguf import PAIRS, gguf

NAMED = [
    {"name": "default", "template": "plain"},
    {"name": "tool_use", "template": "tools"},
    {"name": "rag", "template": "documents"},
]
TOKENS = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False}}


def put(folder: Path, **files: object) -> Path:
    """`folder` with files of those names, `_` for `.`; what is no text is written as JSON."""
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        path = folder / f"{stem}.{ending}"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_first_file_of_the_order_wins(tmp_path: Path) -> None:
    put(tmp_path, tokenizer_config_json={**TOKENS, "chat_template": "of the config"})
    assert templates_of(tmp_path) == TemplateSources("of the config", None, "<s>", "</s>")
    put(tmp_path, chat_template_json={"chat_template": "of the JSON"})
    assert templates_of(tmp_path) == TemplateSources("of the JSON", None, "<s>", "</s>")
    put(tmp_path, chat_template_jinja="of the jinja {{ 'é' }}\n")
    assert templates_of(tmp_path) == TemplateSources("of the jinja {{ 'é' }}\n", None, "<s>", "</s>")
    (tmp_path / "additional_chat_templates").mkdir()
    put(tmp_path / "additional_chat_templates", tool_use_jinja="with tools")
    assert templates_of(tmp_path).tool_use == "with tools"


def test_named_templates_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, tokenizer_config_json={"chat_template": NAMED})
    assert templates_of(tmp_path) == TemplateSources("plain", "tools")


@pytest.mark.parametrize(
    "config", [None, {}, {"chat_template": None}, {"chat_template": []}, {"bos_token": "a"}]
)
def test_a_model_may_have_no_template(tmp_path: Path, config: object) -> None:
    if config is not None:
        put(tmp_path, tokenizer_config_json=config, chat_template_json={})
    assert not templates_of(tmp_path).found


def test_beside_weights_only_a_template_of_its_own_counts(tmp_path: Path) -> None:
    """A folder may hold the weights of several models: the tokenizer's config is of one of them."""
    weights = tmp_path / "model.gguf"
    weights.write_bytes(gguf())
    put(tmp_path, tokenizer_config_json={"chat_template": "another's"})
    assert not templates_of(weights).found
    put(tmp_path, chat_template_json={"chat_template": "its own"})
    assert templates_of(weights) == TemplateSources("its own")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("tokenizer_config.json", b'{"chat_template": ', "is not what it should be"),
        ("tokenizer_config.json", b'{"chat_template": 1}', "is not what it should be: Expected `string"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}', "is not what it should be"),
        ("tokenizer_config.json", b"[" * 100_000, "is not what it should be"),
        ("chat_template.json", b"<html>", "is not what it should be"),
        ("chat_template.json", b'{"chat_template": "\xff"}', "is not what it should be"),
        ("chat_template.jinja", b"\xff\xfe{", "is not UTF-8"),
        ("chat_template.jinja", None, "is not a regular file"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    """Fault row 82: a model whose template cannot be read is not servable; it gets no other one."""
    if data is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(Unfit, match=words) as caught:
        templates_of(tmp_path)
    assert name in caught.value.message


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer_config.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(Unfit, match="is the limit"):
        templates_of(tmp_path)


def test_the_stamp_changes_with_the_files(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.touch()
    seen = [stamp(weights)]
    put(tmp_path, chat_template_jinja="a")
    seen.append(stamp(weights))
    put(tmp_path, chat_template_jinja="longer")
    seen.append(stamp(weights))
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
        seen.append(stamp(weights))
    assert len(set(seen)) == 6
    assert stamp(weights) == stamp(tmp_path) == seen[-1]


def test_a_gguf_has_a_template_for_tools_too(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(gguf({**PAIRS, "tokenizer.chat_template.tool_use": "with tools"}))
    header = read_gguf(weights)
    assert (header.chat_template, header.tool_template) == ("{{ messages }}", "with tools")
    promised = LlamaCppHarness().preflight(LoadOrder("m", weights, "cpu", 512, 1))
    assert (promised.template, promised.tool_template) == ("{{ messages }}", "with tools")


def test_a_template_beside_a_gguf_comes_before_its_own(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(gguf({**PAIRS, "tokenizer.chat_template.tool_use": "with tools"}))
    put(tmp_path, chat_template_jinja="mended")
    promised = LlamaCppHarness().preflight(LoadOrder("m", weights, "cpu", 512, 1))
    assert (promised.template, promised.tool_template) == ("mended", None)
