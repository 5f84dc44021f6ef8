"""Words that several tools must spell alike."""

# What a trial can end in besides success and failure: these by the model's own doing, and `infrastructure`, which is
# never scored, never trained on and always counted.
MODEL_ERRORS = ("timeout", "parse", "context", "output_length")
INFRASTRUCTURE = "infrastructure"

# Which model an evaluation is of, in the order of training.
LABELS = ("base", "sft", "rl")
