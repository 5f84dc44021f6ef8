"""Drop tasks that share text with the prompts of benchmarks."""
