"""The tokenizer in the metadata of a GGUF file, and the tokenizer.json of HuggingFace `tokenizers`
that gives a text the same ids.

llama.cpp has two kinds that tfm reads and writes: `gpt2`, byte-level BPE with merges, which cuts a
text into words as the name of a pre-tokenizer says (src/llama-vocab.cpp there has the regular
expressions), and `llama`, SentencePiece, which merges the pair whose result has the highest score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, DamagedError, nearest

KEY = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens
SPACE = "▁"  # a space in the tokens of SentencePiece
MAX_PIECE = 256  # characters of a token of SentencePiece

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _level(regex: bool) -> dict[str, Any]:
    """regex: cuts words as GPT-2 does."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": regex,
    }


_DIGITS = {"type": "Digits", "individual_digits": True}
# pre-tokenizers by name: the steps of a tokenizer.json
PRE_TOKENIZERS: Mapping[str, list[dict[str, Any]]] = {
    "gpt-2": [_level(True)],
    "smollm": [_DIGITS, _level(True)],
    "qwen2": [_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), _level(False)],
    "llama-bpe": [_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _level(False)],
    "default": [
        _split(r"[\p{P}\$\+<=>\^~\|]+"),
        _split(_GPT2),
        _split(r"\p{N}+"),
        _split("[0-9][0-9][0-9]"),
        _level(False),
    ],
}
SAME_AS = {  # other names of these
    "mpt": "gpt-2", "olmo": "gpt-2", "phi-2": "gpt-2",
    "codeshell": "smollm", "command-r": "smollm", "refact": "smollm", "starcoder": "smollm",
    "deepseek-r1-qwen": "qwen2", "stablelm2": "qwen2",
    "llama-v3": "llama-bpe", "llama3": "llama-bpe",
}  # fmt: skip
WHOLE_WORDS = "llama-bpe"  # a word that is a token is not made of others by merges

# -- import --------------------------------------------------------------------------------------


def tokenizer_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer of a file. ConfigError for a kind or a pre-tokenizer that tfm does not have,
    DamagedError for metadata that contradicts itself."""
    kind = str(metadata.get(KEY + "model"))[:40]
    tokens = _strings(metadata, "tokens")
    types = _numbers(metadata, "token_type", len(tokens), NORMAL)
    if len(set(tokens)) < len(tokens):
        raise DamagedError(f"{KEY}tokens: has a token twice")
    if kind == "gpt2":
        parts = _byte_level(metadata, tokens)
    elif kind == "llama":
        parts = _sentencepiece(metadata, tokens, types)
    else:
        raise ConfigError(f"a tokenizer of the kind {kind!r}; tfm reads gpt2 and llama")
    special = {CONTROL: True, UNKNOWN: True, USER_DEFINED: False}
    strip = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": id, "content": token, "special": special[type], **strip}
        for id, (token, type) in enumerate(zip(tokens, types, strict=True))
        if type in special and token
    ]
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {"version": "1.0", **empty, "added_tokens": added, **parts}


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    name = str(metadata.get(KEY + "pre", "default"))[:40]
    if SAME_AS.get(name, name) not in PRE_TOKENIZERS:
        known = nearest(name, [*PRE_TOKENIZERS, *SAME_AS])
        raise ConfigError(f"a pre-tokenizer that tfm does not have, {name!r}; {known}")
    name = SAME_AS.get(name, name)
    merges, texts = [], set(tokens)
    for merge in _strings(metadata, "merges"):
        at = merge.find(" ", 1)  # a symbol can begin with a space
        left, right = merge[:at], merge[at + 1 :]
        if at > 0 and left == right == tokens[-1]:  # of symbols no text has, see `_as_byte_level`
            continue
        if at < 0 or not {left, right, left + right} <= texts:
            raise DamagedError(f"{KEY}merges: {merge[:40]!r} is no pair of tokens that is one")
        merges.append([left, right])
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[name]},
        "decoder": _level(True),
        "model": _bpe(tokens, merges, ignore_merges=name == WHOLE_WORDS),
    }


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], types: Sequence[int]
) -> dict[str, Any]:
    scores = _numbers(metadata, "scores", len(tokens), 0.0)
    prefix = metadata.get(KEY + "add_space_prefix", True) is not False
    unknown = next((t for t, type in zip(tokens, types, strict=True) if type == UNKNOWN), None)
    model = _bpe(tokens, merges_of(tokens, scores, types), byte_fallback=True, unk_token=unknown)
    return {**_spaces(prefix), "pre_tokenizer": None, "model": model}


def _spaces(prefix: bool) -> dict[str, Any]:
    """Normalizer and decoder of SentencePiece: spaces are a character, and with `prefix` a text
    begins with one."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _bpe(tokens: list[str], merges: list[list[str]], **other: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: id for id, token in enumerate(tokens)},
        "merges": merges,
        **other,
    }


def merges_of(tokens: list[str], scores: Sequence[float], types: Sequence[int]) -> list[list[str]]:
    """The merges of BPE that do what SentencePiece does: all pairs of tokens whose result is a
    token, the highest score first, and of one result by the ids of the pair (`generate_merges` of
    transformers)."""
    ids = {token: id for id, token in enumerate(tokens)}
    found: list[tuple[float, int, int, int]] = []
    for id, (token, type) in enumerate(zip(tokens, types, strict=True)):
        if type != NORMAL:
            continue
        if len(token) > MAX_PIECE:
            raise ConfigError(f"{KEY}tokens: a token of {len(token):,} characters")
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[id], id, left, right))
    return [[tokens[left], tokens[right]] for _, _, left, right in sorted(found)]


def _strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    found = metadata.get(KEY + name)
    if not isinstance(found, list):
        raise DamagedError(f"its metadata has no list of strings {KEY}{name}")
    return found


def _numbers(metadata: Mapping[str, Any], name: str, count: int, usual: float) -> list[Any]:
    """An array of one number for each token. DamagedError if it is none or has other values than
    finite ones."""
    found = metadata.get(KEY + name)
    if found is None:
        return [usual] * count
    good = isinstance(found, np.ndarray) and found.dtype.kind in "iuf" and len(found) == count
    if not good or not np.isfinite(found).all():
        raise DamagedError(f"{KEY}{name} is no array of {count:,} numbers")
    numbers: list[Any] = found.tolist()
    return numbers


# -- export --------------------------------------------------------------------------------------


def tokenizer_metadata(
    parts: Mapping[str, Any], vocab_size: int, begin: int, end: int, suppress: Sequence[int]
) -> dict[str, Any]:
    """The metadata that makes llama.cpp give a text the ids of the tokenizer.json `parts`, after
    the id `begin`, and end it with the id `end`. suppress: ids that are never sampled. ConfigError
    if it cannot."""
    model = parts["model"]
    if model.get("type") != "BPE":
        raise ConfigError(f"llama.cpp has no tokenizer like {model.get('type')}; train with bpe")
    if model.get("byte_fallback"):
        found = _as_sentencepiece(parts, vocab_size)
    else:
        found = _as_byte_level(parts, vocab_size)
    return {
        **{KEY + name: value for name, value in found.items()},
        KEY + "bos_token_id": begin,
        KEY + "eos_token_id": end,
        KEY + "add_bos_token": True,
        KEY + "add_eos_token": False,
        **({KEY + "suppress_tokens": np.array(suppress, np.int32)} if suppress else {}),
    }


def _texts_and_types(
    parts: Mapping[str, Any], vocab_size: int
) -> tuple[list[str], list[int], dict[str, int]]:
    """Text and type of each id, and the ids of the model's own tokens by text. Ids that no text
    has get a name of their own."""
    vocab: dict[str, int] = parts["model"]["vocab"]
    texts, types = {id: text for text, id in vocab.items()}, dict.fromkeys(vocab.values(), NORMAL)
    for token in parts.get("added_tokens") or ():
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise ConfigError(f"its token {token['content']!r} takes spaces beside it, too")
        texts[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    names = [texts.get(id, f"[PAD{id}]") for id in range(vocab_size)]
    if len(set(names)) < len(names):
        raise ConfigError("two of its tokens have the same text, which llama.cpp does not read")
    return names, [types.get(id, UNUSED) for id in range(vocab_size)], vocab


def _as_byte_level(parts: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    model = parts["model"]
    names, types, _ = _texts_and_types(parts, vocab_size)
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model.get("merges") or ())
    merges = [" ".join(pair) for pair in pairs]
    wrong = [
        f"its {part} is {value}"
        for part, value in (
            ("normalizer", parts.get("normalizer")),
            ("continuing_subword_prefix", model.get("continuing_subword_prefix")),
            ("end_of_word_suffix", model.get("end_of_word_suffix")),
        )
        if value
    ]
    if wrong or (parts.get("decoder") or {}).get("type") != "ByteLevel":
        raise ConfigError(
            f"llama.cpp has no such tokenizer: {', '.join(wrong) or 'it is not byte-level'}"
        )
    # without merges the words do not matter, and llama.cpp needs a merge: of symbols no text has
    pre = _name_of(parts, bool(model.get("ignore_merges"))) if merges else "gpt-2"
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": names,
        "token_type": np.array(types, np.int32),
        "merges": merges or [f"{names[-1]} {names[-1]}"],
    }


def _name_of(parts: Mapping[str, Any], whole_words: bool) -> str:
    """The name of the pre-tokenizer of a tokenizer.json."""
    pre = parts.get("pre_tokenizer") or {}
    steps = [_plain(step) for step in pre.get("pretokenizers", [pre])]
    for name, known in PRE_TOKENIZERS.items():
        if steps == list(map(_plain, known)) and whole_words == (name == WHOLE_WORDS):
            return name
    raise ConfigError(
        "llama.cpp has no pre-tokenizer that tfm knows to cut a text into the same words; "
        f"those are {', '.join(PRE_TOKENIZERS)}"
    )


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what has no influence on words; trim_offsets is of positions only."""
    usual = {"add_prefix_space": False, "use_regex": True} if step["type"] == "ByteLevel" else {}
    return {**usual, **{key: value for key, value in step.items() if key != "trim_offsets"}}


def _as_sentencepiece(parts: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Bytes and characters (of --tokenizer char), or a tokenizer that was imported from one of
    SentencePiece, whose scores are the ranks of its merges."""
    names, types, vocab = _texts_and_types(parts, vocab_size)
    own = [[*m.split(" ")] if isinstance(m, str) else m for m in parts["model"].get("merges") or ()]
    rank: dict[str, int] = {}
    for left, right in own:
        rank.setdefault(left + right, len(rank))
    prefixes = [
        prefix for prefix in (True, False) if parts["normalizer"] == _spaces(prefix)["normalizer"]
    ]
    if not parts.get("normalizer"):
        if SPACE in vocab or " " not in vocab:
            raise ConfigError(
                f"llama.cpp writes a space as {SPACE}: a tokenizer of characters must have a space "
                f"and no {SPACE}; train with --tokenizer bpe"
            )
        names = [
            name.replace(" ", SPACE) if type == NORMAL else name
            for name, type in zip(names, types, strict=True)
        ]
        prefixes = [False]
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    types = [BYTE if name in bytes_ else type for name, type in zip(names, types, strict=True)]
    unknown = parts["model"].get("unk_token")
    types = [UNKNOWN if name == unknown else type for name, type in zip(names, types, strict=True)]
    scores = [-float(rank.get(name, len(rank))) for name in names]
    same = sorted(own) == sorted(merges_of(names, scores, types)) and prefixes
    if not same or parts.get("pre_tokenizer") or not bytes_ <= vocab.keys():
        raise ConfigError("llama.cpp has no tokenizer that merges characters in this order")
    return {
        "model": "llama",
        "pre": "default",
        "tokens": names,
        "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32),
        "add_space_prefix": prefixes[0],
    }
