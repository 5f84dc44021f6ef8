"""Training on GPUs with SkyRL: RLOO over FSDP, with vLLM as the sampler and `rollout worker` as the agent.

`command` says what SkyRL is asked to do and imports nothing heavy; `rollouts` and `advantages` turn trials into what
its trainer takes; `experiment` is the part that runs inside SkyRL, and `__main__` starts it.
"""
