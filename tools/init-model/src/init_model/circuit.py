"""Writes a copying circuit into a randomly initialised Qwen3.

What a terminal agent types is for the most part copied from its task: file names, words, values. A transformer
copies with two kinds of heads: one that notes at each position what the previous token was, and one that looks for
positions whose previous token was the current one and repeats what stands there (induction heads: Olsson et al.
2022, "In-context Learning and Induction Heads"). From a purely random start a student of a few million parameters
needs millions of tokens before they appear. Writing them into the initial weights, as mimetic initialisation does
for other patterns of trained attention (Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention
Layers"), lets it learn a task from a few hundred conversations. Nothing of any task or language is put in: which
token to copy, and when, is left to training.

The residual stream of width `d` is used in halves of `c = (d - 8) // 2`: dimensions `0..c-1` hold the token's own
random embedding, `c..2c-1` receive the previous token's, and dimension `2c` is the same for all tokens, so that a
head can attend by position alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3ForCausalLM

_EMBEDDING_STD = 0.05
_CONSTANT = 0.2
_VALUE_GAIN = 0.1
# Attention scores reach sqrt(head size) times this; chosen so that the wanted position outweighs a few hundred others.
_SHARPNESS = 4.0
_RANDOM_SHARPNESS = 2.0
# Rotary frequencies, in radians a token, slow enough that a match survives a distance of a thousand tokens.
_SLOW = 1.5e-3
# How many of the fastest frequencies tell a neighbour from the others.
_FAST = 4


def write_copying_circuit(model: Qwen3ForCausalLM, generator: torch.Generator) -> None:
    """Change a random model's embeddings and attention so that it can copy; needs two layers or more.

    Args:
        model: with tied embeddings and as many key-value heads as heads.
        generator: source of the random embeddings and projections.

    Raises:
        ValueError: the model's shape has no room for the circuit.
    """
    import torch

    config = model.config
    heads, size = config.num_attention_heads, config.head_dim
    half = (config.hidden_size - 8) // 2
    carriers = math.ceil(half / size)
    if config.num_hidden_layers < 2 or config.num_key_value_heads != heads or carriers > heads:
        raise ValueError("the copying circuit needs two layers, ungrouped heads, and heads enough for half the width")
    theta = config.rope_parameters["rope_theta"]
    frequencies = [theta ** (-i / (size // 2)) for i in range(size // 2)]
    slow = [i for i, frequency in enumerate(frequencies) if frequency < _SLOW]
    matching = torch.tensor([*slow, *(i + size // 2 for i in slow)])

    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        embeddings.zero_()
        embeddings[:, :half] = torch.randn(len(embeddings), half, generator=generator) * _EMBEDDING_STD
        embeddings[:, 2 * half] = _CONSTANT
        for index, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            shared = torch.randn(len(matching), half, generator=generator) / math.sqrt(half)
            for head in range(heads):
                rows = slice(head * size, (head + 1) * size)
                query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
                value, output = attention.v_proj.weight[rows], attention.o_proj.weight[:, rows]
                part = head % carriers
                if index == 0 and head < carriers:
                    _attend_to_previous(query, key, constant=2 * half, frequencies=frequencies[:_FAST])
                    _carry(value, output, part, half, target=half, gain=_VALUE_GAIN)
                elif index == 1 and head < carriers:
                    query.mul_(0.1)
                    query[matching[:, None], torch.arange(half)] = shared
                    _look_up_by_previous(key, shared, matching, half)
                    _carry(value, output, part, half, target=0, gain=_VALUE_GAIN)
                elif index > 0:
                    own = torch.randn(len(matching), half, generator=generator) / math.sqrt(half)
                    _look_up_by_previous(key, own, matching, half)
                    _carry(value, output, part, half, target=0, gain=_VALUE_GAIN / 2)
            attention.k_norm.weight.fill_(_SHARPNESS if index < 2 else _RANDOM_SHARPNESS)


def _attend_to_previous(query: torch.Tensor, key: torch.Tensor, *, constant: int, frequencies: list[float]) -> None:
    """Make a head's score largest one token back: the key is turned ahead by one token's rotation."""
    query.mul_(0.1)
    key.mul_(0.1)
    half = len(query) // 2
    for i, frequency in enumerate(frequencies):
        query[i, constant] = 3.0
        key[i, constant] = 3.0 * math.cos(frequency)
        key[i + half, constant] = 3.0 * math.sin(frequency)


def _look_up_by_previous(key: torch.Tensor, projection: torch.Tensor, rows: torch.Tensor, half: int) -> None:
    """Make a head find positions by the token before them."""
    import torch

    key.mul_(0.1)
    key[rows[:, None], torch.arange(half, 2 * half)] = projection


def _carry(value: torch.Tensor, output: torch.Tensor, part: int, half: int, *, target: int, gain: float) -> None:
    """Make a head carry its share of the token's own half into the half that begins at `target`."""
    value.zero_()
    output.zero_()
    size = len(value)
    for i in range(min(size, half - part * size)):
        value[i, part * size + i] = 1.0
        output[target + part * size + i, i] = gain
