"""A run as a folder of transformers, for `AutoModelForCausalLM.from_pretrained` (with an encoder:
`AutoModelForSeq2SeqLM`) and `AutoTokenizer`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from ..errors import writing
from ..files import sync_folder, to_json, write_durably
from ..model.sequence_model import SequenceModel
from ..plugins import name_of
from ..protocols import Tokenizer
from ..runs.run import Run
from .foreign import to_hf

OWN_TOKENIZER = "tfm_tokenizer"  # the file of a tokenizer of items that are no text


def export(run: Run, model: SequenceModel, out: Path, dtype: str) -> dict[str, object]:
    """Writes the folder `out`, whole or not at all. dtype: of the tensors. ConfigError if no class
    of transformers computes the model."""
    config, tensors = to_hf(model)
    kind = getattr(torch, dtype)
    tokenizer, pairs = run.tokenizer(), run.task().pairs
    text = tokenizer.tokenizer_json()
    special, unsampled = _special_ids(run, tokenizer), _begin_is_illegal(tokenizer)
    suppressed = {"suppress_tokens": [tokenizer.begin]} if unsampled else {}
    files = {
        "config.json": to_json({**config, "dtype": dtype, **special}),
        "model.safetensors": save_tensors(
            {name: tensor.to(kind).clone() for name, tensor in tensors.items()}, {"format": "pt"}
        ),
        "generation_config.json": to_json({**special, **suppressed}),
    }
    if text is None:
        state, arrays = tokenizer.state()
        own = {"kind": name_of("tokenizers", type(tokenizer)), "state": state}
        files[f"{OWN_TOKENIZER}.json"] = to_json(own)
        if arrays:
            files[f"{OWN_TOKENIZER}.safetensors"] = save_arrays(arrays)
    else:
        if pairs:
            text["post_processor"] = _ending_with(text, tokenizer.begin)
        files["tokenizer.json"] = json.dumps(text, ensure_ascii=False).encode()
        about = _tokenizer_config(text, special, model.config.context)
        files["tokenizer_config.json"] = to_json({**about, "split_special_tokens": unsampled})
    write_folder(out, files)
    return {
        "class": config["architectures"][0],
        "dtype": dtype,
        "tokenizer": "tokenizer.json" if text is not None else f"{OWN_TOKENIZER}.json",
        "files": {name: len(data) for name, data in files.items()},
    }


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes a new folder of files: under another name, then renamed. TfmError if that fails."""
    fresh = out.with_name(f".{out.name}.new-{os.getpid()}")
    with writing(out):
        try:
            fresh.mkdir()
            for name, data in files.items():
                write_durably(fresh / name, data)
            fresh.rename(out)
            sync_folder(Path(os.path.abspath(out)).parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def _special_ids(run: Run, tokenizer: Tokenizer) -> dict[str, Any]:
    """Begin and end tokens under the names of transformers. Padding is the begin token: masked
    positions have no influence, whatever their id."""
    begin, end = tokenizer.begin, run.task().end_token(tokenizer)
    found = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": begin}
    if run.model_config().encoder_layers:
        found |= {"decoder_start_token_id": begin, "forced_eos_token_id": None}
    return found


def _begin_is_illegal(tokenizer: Tokenizer) -> bool:
    """Whether the begin token is an id of its own, which is never sampled nor part of a text."""
    support = tokenizer.support(1, {})
    legal = support[1] if isinstance(support, tuple) else tokenizer.vocab_size
    return tokenizer.begin >= legal


def _tokenizer_config(
    text: Mapping[str, Any], special: Mapping[str, Any], context: int
) -> dict[str, Any]:
    names = {token["id"]: token["content"] for token in text.get("added_tokens", ())}
    named = {key.removesuffix("_id"): names.get(id) for key, id in special.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **{key: name for key, name in named.items() if key[:3] in ("bos", "eos", "pad") and name},
    }


def _ending_with(text: Mapping[str, Any], begin: int) -> dict[str, Any]:
    """The post-processor of a task of pairs: the begin token stands between source and target."""
    name = next(token["content"] for token in text["added_tokens"] if token["id"] == begin)
    source, mark = (
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": name, "type_id": 0}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [source, mark],
        "pair": [source, mark, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [begin], "tokens": [name]}},
    }
