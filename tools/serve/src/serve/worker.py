"""Runs inside vLLM's worker: swaps the served weights."""

from __future__ import annotations

from typing import Any


class WeightSwap:
    """Adds a method to vLLM's worker class; named to vLLM by `--worker-extension-cls`."""

    model_runner: Any

    def swap_weights(self, weights_path: str) -> None:
        """Load the weights of a folder in place of those that are served.

        vLLM's CPU build multiplies by a packed copy of the output layer. Where that layer shares its weights with the
        embeddings, a reload leaves the copy as it was (seen with 0.32), so it is made again here.
        """
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        self.model_runner.reload_weights(weights_path=weights_path)
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        if hasattr(head, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(head, remove_weight=False)
