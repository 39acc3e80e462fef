"""Models of llama.cpp: a GGUF file with weights of any type that the package `gguf` can turn into
floats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import TfmError
from .foreign import Foreign, llama_like, tokenizer_of
from .gguf_file import GgufFile
from .gguf_models import FREQUENCIES, GgufArch, arch_named, config_json, separate
from .gguf_tokenizer import tokenizer_json


def read(source: str) -> Foreign:
    """The model of a file. UsageError, DataError, ConfigError or DamagedError if there is none that
    tfm can compute."""
    try:
        file = GgufFile(Path(source))
        arch = arch_named(file.metadata.get("general.architecture"))
        values = config_json(file, arch)
        config, weights = llama_like(values, Tensors(file, arch, values))
        tokenizer = tokenizer_of(tokenizer_json(file.metadata), values)
    except TfmError as error:
        text = str(error).replace("config.json", "metadata")  # as `llama_like` calls it
        line = "".join(c if c.isprintable() else "\ufffd" for c in text)  # of names in the file
        raise type(error)(f"{source}: {line}") from error
    kinds = Counter(info.kind.name for info in file.infos.values() if len(info.shape) > 1)
    about = {
        "source": Path(source).name,
        "class": arch.name,
        "dtype": kinds.most_common(1)[0][0].lower(),
    }
    return Foreign(config, weights, tokenizer, about)


class Tensors(Mapping[str, Tensor]):
    """The tensors of a file under their names in transformers, and as they are there. Tensors
    without such a name keep their own."""

    def __init__(self, file: GgufFile, arch: GgufArch, config: Mapping[str, Any]) -> None:
        self.file, self.arch, self.config = file, arch, config
        layers = min(int(config.get("num_hidden_layers", config.get("n_layer", 0))), len(file))
        theirs = {gguf: name for name, gguf in arch.names(layers) if gguf in file}
        self.names = {theirs.get(name, name): name for name in file if name != FREQUENCIES}

    def __getitem__(self, name: str) -> Tensor:
        found = self.file[self.names[name]]
        if self.arch.turned(name, found.ndim):
            return found.T
        heads = self.arch.heads_of(name, self.config) if "." in name else 0
        whole = heads > 0 and len(found) % (2 * heads) == 0  # else `llama_like` refuses its shape
        return separate(found, heads) if whole else found

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
