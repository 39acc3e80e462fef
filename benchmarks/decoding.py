"""Decoding at 10.65M parameters (6 layers, 6 heads, width 384, vocabulary 65) against nanoGPT and
Hugging Face: 240 new tokens after a prompt of one, all programs in turn.

python benchmarks/decoding.py [--nanogpt CLONE] [--rounds 5]
python benchmarks/decoding.py --gguf FILE [--rounds 5]

tfm decodes with core/ops/c/decode_step.c, and once without a C compiler. CLONE is a checkout of
karpathy/nanoGPT; transformers is measured if it is installed. Weights are random: the cost of a
token does not depend on them. The limit is the rate at which the measured memory bandwidth reads
all weights once per token.

--gguf decodes a model that `tfm export --to gguf --dtype float16` has written with tfm and with
llama.cpp (the package llama-cpp-python), both greedy and with the same number of threads: 64 new
tokens of each row after one token. A step of several rows is one batch in both.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import torch
from _common import heading, interleaved, table

from tfm.core import bench
from tfm.core.config import ModelConfig, SampleConfig
from tfm.core.decode.batch_decoder import Decoder, for_decoding
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import native_library
from tfm.core.protocols import Sequence

NEW, VOCAB, CONTEXT = 240, 65, 256
NEW_OF_FILE = 64
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def ours(
    rows: int, dtype: str | None, library: Any, note: str = ""
) -> tuple[str, Callable[[], object], int]:
    """(name, a function that samples, bytes read per step)."""
    torch.manual_seed(0)
    model = SequenceModel(
        ModelConfig(vocab_size=VOCAB, context=CONTEXT, layers=6, width=384, heads=6)
    ).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    chosen, draw = sampler(model, rows, dtype, library, SampleConfig(), NEW)
    return f"tfm, {chosen}{note}", draw, model.matmul_parameter_count() * BYTES[chosen]


def sampler(
    model: SequenceModel, rows: int, dtype: str | None, library: Any, config: SampleConfig, new: int
) -> tuple[str, Callable[[], object]]:
    """The dtype of the weights, and a function that samples `new` tokens of each of `rows` rows."""
    import numpy as np

    tokenizer: Any = bench._AnyIdTokenizer(model.config.vocab_size)
    ready, chosen = for_decoding(model, rows, dtype, library)

    def draw() -> None:
        decoder = Decoder(ready, tokenizer, config, rows, new + 1)
        for number in range(rows):
            decoder.begin(Sequence(np.zeros(1, np.int64)), new, draw=number)
        for _ in range(new):
            decoder.step()

    return chosen, draw


def nanogpt(clone: Path, rows: int) -> Callable[[], object]:
    model = _common.nanogpt(clone, 6, 6, 384, VOCAB, CONTEXT).eval()
    return lambda: model.generate(torch.zeros(rows, 1, dtype=torch.long), NEW)


def huggingface(rows: int, dtype: torch.dtype) -> Callable[[], object]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=384,
        n_layer=6,
        n_head=6,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).to(dtype).eval()
    start = torch.zeros(rows, 1, dtype=torch.long)
    return lambda: model.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        min_new_tokens=NEW,
        max_new_tokens=NEW,
    )


def llama_cpp(path: Path, rows: int) -> Callable[[], object]:
    """Greedy decoding by llama.cpp, the rows as one batch of as many sequences."""
    import llama_cpp as api
    import numpy as np

    api.llama_backend_init()
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx, params.n_seq_max = rows * 2 * NEW_OF_FILE, rows
    params.n_batch = params.n_ubatch = max(rows, 32)
    params.n_threads = params.n_threads_batch = torch.get_num_threads()
    context = api.llama_init_from_model(model, params)
    vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    batch = api.llama_batch_init(rows, 0, 1)
    batch.n_tokens = rows

    def draw() -> None:
        api.llama_memory_clear(api.llama_get_memory(context), True)
        ids = [0] * rows
        for position in range(NEW_OF_FILE):
            for row, id in enumerate(ids):
                batch.token[row], batch.pos[row] = id, position
                batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, row, 1
            if api.llama_decode(context, batch):
                raise RuntimeError("llama_decode failed")
            logits = np.ctypeslib.as_array(api.llama_get_logits(context), (rows, vocab))
            ids = logits.argmax(1).tolist()

    return draw


def of_file(path: Path, rows: int, library: Any, rounds: int, read: float) -> None:
    """The table of --gguf."""
    from tfm.core.exchange.gguf_import import read as read_model

    found = read_model(str(path))
    model = SequenceModel(found.config).eval()
    model.load_state_dict(found.weights, strict=False)
    config, weights = SampleConfig(greedy=True), model.matmul_parameter_count()
    calls: dict[str, Callable[[], object]] = {}
    step_bytes = {f"llama.cpp, {found.about['dtype']}": path.stat().st_size}
    for dtype in (None, "float16", "int8"):
        chosen, draw = sampler(model, rows, dtype, library, config, NEW_OF_FILE)
        calls[f"tfm, {chosen}"] = draw
        step_bytes[f"tfm, {chosen}"] = weights * BYTES[chosen]
    calls[f"llama.cpp, {found.about['dtype']}"] = llama_cpp(path, rows)
    lines: list[list[object]] = [
        [f"{path.name}, {rows} at once", "tokens/s", "least", "most", "of the bandwidth limit"]
    ]
    with torch.no_grad():
        times = interleaved(calls, rounds)
    for name, (median, least, most) in times.items():
        rates = [f"{rows * NEW_OF_FILE / t:,.0f}" for t in (median, most, least)]
        lines.append([name, *rates, f"{NEW_OF_FILE / median * step_bytes[name] / read:.0%}"])
    table(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    parser.add_argument("--nanogpt", type=Path, metavar="CLONE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=int, choices=(1, 32), help="draws at once")
    args = parser.parse_args()
    heading()
    library = native_library.library(Path(tempfile.mkdtemp(prefix="tfm-bench-")))
    read = bench.memory_bandwidth(torch.device("cpu"), 1.0)
    print(f"memory gives {read / 1e9:.1f} GB/s to {torch.get_num_threads()} threads\n")
    for rows in [args.only] if args.only else (1, 32):
        if args.gguf:
            of_file(args.gguf, rows, library, args.rounds, read)
            continue
        calls: dict[str, Callable[[], object]] = {}
        step_bytes: dict[str, int] = {}
        for dtype, by, note in (
            (None, library, ", the default"),
            ("float32", library, ""),
            ("int8", library, ""),
            (None, None, ", without a compiler"),
        ):
            name, call, size = ours(rows, dtype, by, note)
            calls[name], step_bytes[name] = call, size
        if args.nanogpt:
            calls["nanoGPT, float32"] = nanogpt(args.nanogpt, rows)
        if importlib.util.find_spec("transformers"):
            for kind in (torch.float32, torch.bfloat16):
                calls[f"transformers, {str(kind).removeprefix('torch.')}"] = huggingface(rows, kind)
        slow = {"nanoGPT, float32"} if rows > 1 else set()
        with torch.no_grad():
            times = interleaved({n: c for n, c in calls.items() if n not in slow}, args.rounds)
        base = times[next(iter(calls))][0]
        lines: list[list[object]] = [
            [
                f"{rows} at once",
                "tokens/s",
                "least",
                "most",
                "of the bandwidth limit",
                "the default is faster by",
            ]
        ]
        for name, (median, least, most) in times.items():
            rates = [f"{rows * NEW / t:,.0f}" for t in (median, most, least)]
            limit = step_bytes.get(name)
            share = f"{NEW / median * limit / read:.0%}" if limit else ""
            lines.append([name, *rates, share, f"{median / base:.1f}"])
        table(lines)


if __name__ == "__main__":
    main()
