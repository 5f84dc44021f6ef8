"""Stands in for torchaudio, which LLaMA-Factory imports for audio; its wheels link CUDA, and text needs none of it."""
