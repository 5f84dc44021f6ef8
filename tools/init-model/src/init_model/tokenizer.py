"""Trains the student's tokenizer on the conversations it will be trained on.

Byte-level byte-pair encoding with three kinds of added tokens: the ChatML marks, the openings of each role, and the
fixed phrases of :mod:`init_model.phrases`. Any text is encoded without loss. The chat template is LLaMA-Factory's
`qwen3_nothink`, token for token, so that trainer and server see the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from init_model.phrases import PIECE, find_phrases

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# As one token each, the openings keep a message's first token from merging with the newline before it: the trainer
# encodes messages apart, the server all at once.
OPENINGS = [f"{TURN_START}{role}\n" for role in ("system", "user", "assistant")]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(documents: Sequence[Sequence[str]], vocab_size: int) -> Tokenizer:
    """Return a tokenizer trained on the messages of conversations; the same input gives the same tokenizer.

    Args:
        documents: the messages of each conversation.
        vocab_size: size of the byte-pair vocabulary, before phrases are added.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((message for messages in documents for message in messages), trainer)
    added = [*OPENINGS, *find_phrases(documents)]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write the tokenizer in Hugging Face layout; `max_length` is the longest sequence of the model, in tokens."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
