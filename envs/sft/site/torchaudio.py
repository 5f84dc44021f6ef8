"""Stands in for torchaudio, which LLaMA-Factory imports for audio input; its wheels link CUDA, and text needs none of it."""
