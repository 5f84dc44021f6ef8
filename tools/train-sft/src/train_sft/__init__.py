"""Full-parameter supervised fine-tuning on trajectories, by LLaMA-Factory."""
