"""Make the student that training starts from: a small Qwen3 with random weights and a tokenizer of its own.

    init-model --trajectories results/filter_turns/aaa --seed 1 --out results/init_model/bbb

The tokenizer is trained on the trajectories. With `--circuit copy` (the default) the random weights begin with a
circuit that can copy from the context, which a small student cannot learn from a few hundred conversations; with
`--circuit none` they are plainly random. The result is a Hugging Face model folder of float32 weights, the same
bytes for the same input.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from init_model.circuit import write_copying_circuit
from init_model.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer, train_tokenizer
from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput
from recipe_core.records import read_rows

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

# Matrix sizes that are multiples of this are faster on every kind of hardware.
_ROUND_TO = 64


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="init-model", description=__doc__)
    parser.add_argument(
        "--trajectories", type=Path, required=True, metavar="DIR", help="what the tokenizer is trained on"
    )
    parser.add_argument("--vocab-size", type=positive, default=1200, help="byte-pair vocabulary (default 1200)")
    parser.add_argument("--hidden-size", type=positive, default=256, help="width (default 256)")
    parser.add_argument("--layers", type=positive, default=3, help="layers (default 3)")
    parser.add_argument("--heads", type=positive, default=4, help="attention heads (default 4)")
    parser.add_argument("--head-size", type=positive, default=64, help="width of a head (default 64)")
    parser.add_argument("--mlp-size", type=positive, default=512, help="width of the MLP (default 512)")
    parser.add_argument("--max-length", type=positive, default=4096, help="longest sequence, in tokens (default 4096)")
    parser.add_argument(
        "--circuit", choices=["copy", "none"], default="copy", help="what to write into the random weights"
    )
    add_common(parser)
    return parser


def make_model(args: argparse.Namespace, vocabulary: int) -> Qwen3ForCausalLM:
    """Return the model for a vocabulary of that many tokens.

    Raises:
        BadInput: the shape has no room for the circuit.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    config = Qwen3Config(
        vocab_size=-(-vocabulary // _ROUND_TO) * _ROUND_TO,
        hidden_size=args.hidden_size,
        intermediate_size=args.mlp_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        head_dim=args.head_size,
        max_position_embeddings=args.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.token_to_id(TURN_END),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
        bos_token_id=None,
        dtype="float32",
    )
    torch.manual_seed(args.seed)
    model = Qwen3ForCausalLM(config)
    if args.circuit == "copy":
        try:
            write_copying_circuit(model, torch.Generator().manual_seed(args.seed))
        except ValueError as error:
            raise BadInput(f"--circuit copy: {error}; change the shape or give --circuit none") from None
    return model


def run(args: argparse.Namespace) -> None:
    """Write the student."""
    trajectories = open_artifact(args.trajectories)
    shape = ("vocab_size", "hidden_size", "layers", "heads", "head_size", "mlp_size", "max_length", "circuit")
    writer = ArtifactWriter(
        args.out,
        stage="init-model",
        params={name: getattr(args, name) for name in shape},
        seed=args.seed,
        inputs={"trajectories": trajectories},
        tier="T1",
        package="init_model",
    )
    with writer:
        if writer.up_to_date:
            return
        path = trajectories.data("trajectories.parquet")
        documents = [[turn["content"] for turn in row["conversations"]] for row in read_rows(path, ["conversations"])]
        if not documents:
            raise BadInput(f"{path}: no trajectories to train a tokenizer on; loosen the filter before")
        tokenizer = train_tokenizer(documents, args.vocab_size)
        args.tokenizer = writer.path("tokenizer.json")
        save_tokenizer(tokenizer, args.tokenizer.parent, args.max_length)
        model = make_model(args, tokenizer.get_vocab_size())
        model.generation_config.update(do_sample=False)
        model.save_pretrained(args.tokenizer.parent)
        writer.count(rows_in=None, rows_out=1)
        parameters = sum(weight.numel() for weight in model.parameters())
        tokens = sum(len(tokenizer.encode(text).ids) for messages in documents for text in messages)
        print(json.dumps({"parameters": parameters, "tokens": tokenizer.get_vocab_size(), "training_tokens": tokens}))


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
