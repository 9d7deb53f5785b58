"""A vocabulary's pieces are the bytes that tokens add, and its ends are all that any file names."""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from cortex.errors import BadAsk, Unfit
from cortex.harness.exllamav2.endings import SETTINGS_BYTES
from cortex.harness.exllamav2.vocabulary import FILE_BYTES, MOST_TOKENS, Vocabulary

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "Καλημέρα 😀 ναι, ça va? 日本語のテキスト",
    'def f(x):\n\treturn {"a": [1, 2.5], "b": None}  # ok',
    "   leading, trailing and   inner blanks   ",
    "\r\n\x00\x7f\u00a0\u00ad end",
] * 3
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
DOT = "\u2581"
MADE = AddedToken("<think>", special=False, normalized=False)


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen have it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def llama2() -> Tokenizer:
    """A SentencePiece BPE as it is converted: blanks are marks, unknown letters are bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(DOT), normalizers.Replace(" ", DOT)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(DOT, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *SPECIAL, *BYTES], show_progress=False, limit_alphabet=20
    )
    made.train_from_iterator([text.replace(" ", DOT) for text in TEXTS], trainer)
    return plain_bytes(made)


def gemma() -> Tokenizer:
    """The same without a blank first; its decoder is a sequence within a sequence."""
    made = llama2()
    made.normalizer = normalizers.Replace(" ", DOT)
    steps = [decoders.Replace(DOT, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([decoders.Sequence(steps)])
    return made


def metaspace() -> Tokenizer:
    """A Unigram model whose marks are put in and taken out by one step."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=DOT, prepend_scheme="never")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=DOT)])
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", *SPECIAL, *BYTES],
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=list(" abcdefghijklmnopqrstuvwxyz"),
    )
    made.train_from_iterator(TEXTS, trainer)
    told = json.loads(plain_bytes(made).to_str())
    told["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(told))


def first_metaspace() -> Tokenizer:
    """A Llama 2 of later conversions: the blank first is the step's own."""
    made = llama2()
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=DOT, prepend_scheme="first", split=False)
    return made


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def plain_bytes(made: Tokenizer) -> Tokenizer:
    """Bytes are words like others: the trainer knows no other way to put them in."""
    told = json.loads(made.to_str())
    told["added_tokens"] = [word for word in told["added_tokens"] if word["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(told))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "llama 2": llama2,
    "gemma": gemma,
    "metaspace": metaspace,
    "metaspace, blank first": first_metaspace,
}
BLANK_FIRST = {"llama 2", "metaspace, blank first"}


def folder_of(made: Tokenizer | str, folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = made if isinstance(made, str) else made.to_str()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    for name, said in files.items():
        (folder / f"{name}.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vocabulary]:
    def read(make: Callable[[], Tokenizer]) -> Vocabulary:
        made = make()
        made.add_tokens([MADE])
        made.add_special_tokens(["<|é▁nd|>"])
        return Vocabulary.read(folder_of(made, tmp_path_factory.mktemp("known")))

    return {name: read(make) for name, make in KINDS.items()}


def spoken(vocabulary: Vocabulary, text: str) -> bytes:
    return b"".join(vocabulary.piece(token) for token in vocabulary.encode(text))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(text=st.text(st.one_of(st.sampled_from("ab 日é😀\n\t<|>▂"), st.characters(exclude_categories=["Cs"]))))
def test_the_pieces_of_a_text_s_tokens_are_its_bytes(
    known: dict[str, Vocabulary], kind: str, text: str
) -> None:
    if DOT in text:
        return  # where it is the mark of a blank it comes back as one
    first = b" " if kind in BLANK_FIRST and text else b""
    if kind == "metaspace, blank first" and text.startswith(" "):
        first = b""
    assert spoken(known[kind], text) == first + text.encode()


def comes_back(kind: str, text: str) -> bool:
    """A blank is put after each special token too, and before none that is there already: neither
    can be told from the text's own."""
    return "<" not in text and not (kind.startswith("metaspace") and text.startswith(" "))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kind, text)
        for kind in KINDS
        for text in (*TEXTS[:5], "", "a b  c", "😀" * 4, "a<think>b", "<|im_start|>x<|im_end|>")
        if kind not in BLANK_FIRST or comes_back(kind, text)
    ],
)
def test_a_text_comes_back_from_its_tokens(known: dict[str, Vocabulary], kind: str, text: str) -> None:
    assert known[kind].text(known[kind].encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_agree_with_the_library_s_own_decoding(known: dict[str, Vocabulary], kind: str) -> None:
    """Whatever tokens come: as a model speaks, not as texts are encoded."""
    vocabulary = known[kind]
    library = vocabulary._tokenizer
    plain = [token for token in range(vocabulary.size) if vocabulary.piece(token) and token > 5]
    added = {token for token, word in library.get_added_tokens_decoder().items()}
    plain = [token for token in plain if token not in added]
    before = vocabulary.encode("ab")
    head = library.decode(before)
    for seed in range(200):
        tokens = random.Random(seed).choices(plain, k=9)
        said = b"".join(map(vocabulary.piece, tokens))
        try:
            text = said.decode()
        except UnicodeDecodeError:
            continue  # each has its own way to replace what is no character
        assert library.decode([*before, *tokens]) == head + text


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_are_themselves_whatever_their_letters_mean(
    known: dict[str, Vocabulary], kind: str
) -> None:
    vocabulary = known[kind]
    for content, special in (("<think>", False), ("<|é▁nd|>", True), ("<s>", True)):
        (token,) = [each for each in vocabulary.encode(content) if vocabulary.piece(each) != b" "]
        assert vocabulary.piece(token) == content.encode()
        assert vocabulary.special(token) is special


def piece_of(folder: Path, told: dict, word: str) -> bytes:
    model = {**told["model"], "vocab": {**told["model"]["vocab"], word: 3000}}
    told = {**told, "model": model}
    return Vocabulary.read(folder_of(json.dumps(told), folder)).piece(3000)


def test_a_word_with_a_letter_that_stands_for_no_byte_stands_for_itself(tmp_path: Path) -> None:
    told = json.loads(byte_level().to_str())
    assert piece_of(tmp_path, told, "\u0120\u00e9") == b" \xe9"
    for word in ("\u0120\u00a0", "\u00ad", "\u65e5"):
        assert piece_of(tmp_path, told, word) == word.encode()


def test_bytes_are_spelt_out_where_the_decoder_makes_none_of_them(tmp_path: Path) -> None:
    told = json.loads(gemma().to_str())
    assert piece_of(tmp_path, told, "<0xe9>") == b"\xe9"
    told["decoder"] = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": False}
    assert piece_of(tmp_path, told, "<0xE9>_") == b"<0xE9> "
    assert piece_of(tmp_path, told, "<0xE9>") == b"<0xE9>"


def test_special_tokens_are_hidden_but_for_the_visible_ones(known: dict[str, Vocabulary]) -> None:
    vocabulary = known["byte level"]
    (start,) = vocabulary.encode("<|im_start|>")
    (end,) = vocabulary.encode("<|im_end|>")
    hidden = vocabulary.hidden(("<|im_start|>", "<think>", "nothing"))
    assert start not in hidden
    assert end in hidden
    assert vocabulary.encode("<think>")[0] not in hidden


def test_broken_bytes_are_replaced_and_numbers_that_are_no_token_refused(
    known: dict[str, Vocabulary],
) -> None:
    vocabulary = known["byte level"]
    tokens = vocabulary.encode("\u0416")
    assert vocabulary.text(tokens[:1]) == "\ufffd"
    for number in (-1, vocabulary.size, 2**62):
        with pytest.raises(BadAsk, match="no token"):
            vocabulary.text((number,))


def test_half_of_a_surrogate_pair_is_no_text(known: dict[str, Vocabulary]) -> None:
    with pytest.raises(BadAsk) as caught:
        known["gemma"].encode("a\ud800b")
    assert caught.value.param == "prompt"


def test_a_file_s_own_limit_of_length_cuts_no_prompt(tmp_path: Path) -> None:
    made = byte_level()
    made.enable_truncation(max_length=3)
    made.enable_padding(length=50)
    vocabulary = Vocabulary.read(folder_of(made, tmp_path))
    assert spoken(vocabulary, TEXTS[0]) == TEXTS[0].encode()


def test_a_token_without_weights_is_refused_in_a_prompt(tmp_path: Path) -> None:
    """The library would read beyond the embeddings, and every job would fail with this one."""
    made = byte_level()
    made.add_special_tokens(["<pad>"])
    size = made.get_vocab_size() - 1
    vocabulary = Vocabulary.read(folder_of(made, tmp_path, config={"vocab_size": size}))
    assert vocabulary.size == size
    with pytest.raises(BadAsk, match="<pad>"):
        vocabulary.encode("a<pad>")
    with pytest.raises(BadAsk, match="no token"):
        vocabulary.text((size,))


def test_a_token_that_only_the_settings_know_is_understood(tmp_path: Path) -> None:
    made = byte_level()
    size = made.get_vocab_size()
    words = {
        str(size + 1): {"content": "<plain>", "special": False},
        str(size): {"content": "<extra>", "special": True},
    }
    vocabulary = Vocabulary.read(folder_of(made, tmp_path, tokenizer_config={"added_tokens_decoder": words}))
    assert vocabulary.encode("<extra><plain>") == (size, size + 1)
    assert (vocabulary.special(size), vocabulary.special(size + 1)) == (True, False)


# --- ends and begins


def ids(vocabulary: Vocabulary, *words: str) -> frozenset[int]:
    return frozenset(token for word in words for token in vocabulary.encode(word))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ()),
        ({"config": {"eos_token_id": 1}}, ("</s>",)),
        ({"config": {"eos_token_id": [0, 1]}}, ("<s>", "</s>")),
        ({"generation_config": {"eos_token_id": [0]}, "config": {"eos_token_id": 1}}, ("<s>", "</s>")),
        ({"config": {"text_config": {"eos_token_id": 1}}}, ("</s>",)),
        ({"tokenizer_config": {"eos_token": "</s>"}}, ("</s>",)),
        ({"tokenizer_config": {"eos_token": {"content": "</s>", "lstrip": False}}}, ("</s>",)),
        ({"tokenizer_config": {"eos_token": "no word of its"}}, ()),
        ({"config": {"eos_token_id": None}, "generation_config": {}}, ()),
        ({"config": {"eos_token_id": 10**6}}, ()),
    ],
)
def test_every_end_that_a_file_names_ends_an_answer(tmp_path: Path, files: dict, words: tuple) -> None:
    made = byte_level()
    folder = folder_of(made, tmp_path, **files)
    vocabulary = Vocabulary.read(folder)
    assert vocabulary.eos == ids(vocabulary, "<|im_end|>", *words)


def test_a_turn_s_end_counts_only_where_it_is_a_special_token(tmp_path: Path) -> None:
    told = json.loads(byte_level().to_str())
    told["added_tokens"] = [word for word in told["added_tokens"] if word["content"] != "<|im_end|>"]
    vocabulary = Vocabulary.read(folder_of(json.dumps(told), tmp_path, config={"eos_token_id": 1}))
    assert vocabulary.eos == {1}


def with_begin() -> Tokenizer:
    made = byte_level()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return made


@pytest.mark.parametrize(
    ("make", "files", "adds"),
    [
        (with_begin, {"tokenizer_config": {"bos_token": "<s>"}}, True),
        (with_begin, {"config": {"bos_token_id": 0}}, True),
        (with_begin, {"tokenizer_config": {"bos_token": "<s>", "add_bos_token": False}}, False),
        (with_begin, {"tokenizer_config": {"bos_token": "</s>"}}, False),
        (with_begin, {}, False),
        (byte_level, {"tokenizer_config": {"bos_token": "<s>"}}, False),
        (byte_level, {"tokenizer_config": {"bos_token": "<s>", "add_bos_token": True}}, True),
        (byte_level, {"tokenizer_config": {"add_bos_token": True, "bos_token": None}}, False),
    ],
)
def test_a_prompt_begins_as_the_files_say_and_encoding_adds_nothing(
    tmp_path: Path, make: Callable[[], Tokenizer], files: dict, adds: bool
) -> None:
    vocabulary = Vocabulary.read(folder_of(make(), tmp_path, **files))
    assert vocabulary.adds_bos is adds
    assert spoken(vocabulary, "ab") == b"ab"


# --- files that are not what they should be


def changed(**parts: object) -> str:
    return json.dumps({**json.loads(byte_level().to_str()), **parts})


def worded(change: Callable[[dict[str, int]], None]) -> str:
    told = json.loads(byte_level().to_str())
    change(told["model"]["vocab"])
    return json.dumps(told)


WORD = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not what it should be"),
        ("{", "not what it should be"),
        ("[1]", "not what it should be"),
        ('{"model": {"type": "BPE"}}', "not what it should be"),
        ("[" * 100_000, "not what it should be"),
        (changed(model={"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}), "not what it should be"),
        (changed(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "highest token"),
        (changed(decoder=None), "decoder"),
        (changed(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "WordPiece"),
        (changed(decoder={"type": "Fuse"}), "blank"),
        (changed(decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}] * 40}), "length"),
        (changed(added_tokens=[{"id": 900, "content": "<far>", **WORD}]), "<far>"),
        (worded(lambda words: words.update(zzz=MOST_TOKENS)), "highest token"),
        (worded(lambda words: words.update(zzz=2**31)), "highest token"),
        (worded(lambda words: words.update(zzz=40)), "same id"),
        (worded(lambda words: words.update(zzz=-1)), "not what it should be"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_unfit(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Unfit, match=says) as caught:
        Vocabulary.read(folder_of(text, tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_vocabulary_with_gaps_is_read_and_they_say_nothing(tmp_path: Path) -> None:
    def spread(words: dict[str, int]) -> None:
        words["zzz"] = 5000

    vocabulary = Vocabulary.read(folder_of(worded(spread), tmp_path))
    assert vocabulary.size == 5001
    assert vocabulary.text((4000, 5000)) == "zzz"


def test_a_folder_without_a_tokenizer_json_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="missing"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize(("name", "limit"), [("tokenizer.json", FILE_BYTES), ("config.json", SETTINGS_BYTES)])
def test_a_file_beyond_all_measure_is_unfit(tmp_path: Path, name: str, limit: int) -> None:
    folder_of(byte_level(), tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.truncate(limit + 1)
    with pytest.raises(Unfit, match="limit"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"config": [1]},
        {"config": {"eos_token_id": "two"}},
        {"generation_config": {"eos_token_id": [None]}},
        {"tokenizer_config": {"eos_token": 3}},
        {"tokenizer_config": {"added_tokens_decoder": {"one": {"content": "<x>"}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"9000": {"content": "<x>"}}}},
        {"tokenizer_config": {"bos_token": "<s>", "add_bos_token": True}, "config": {"vocab_size": 0}},
    ],
)
def test_settings_that_contradict_the_vocabulary_are_unfit(tmp_path: Path, files: dict) -> None:
    with pytest.raises(Unfit):
        Vocabulary.read(folder_of(byte_level(), tmp_path, **files))


@pytest.mark.slow
def test_every_broken_form_of_a_file_is_unfit_or_read(tmp_path: Path) -> None:
    """Fault rows of broken files: no other error, whatever byte is wrong."""
    whole, read = byte_level().to_str(), 0
    for seed in range(300):
        source = random.Random(seed)
        at = source.randrange(len(whole))
        text = whole[:at] + source.choice('{}[]",:0123456789é\\x') + whole[at + source.randrange(1, 40) :]
        with contextlib.suppress(Unfit):
            assert len(Vocabulary.read(folder_of(text, tmp_path)).text(())) == 0
            read += 1
    assert 0 < read < 300, read
