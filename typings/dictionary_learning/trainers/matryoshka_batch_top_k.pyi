from dictionary_learning.trainers import Trainer

class MatryoshkaBatchTopKTrainer(Trainer):
    def __init__(
        self,
        *,
        steps: int,
        activation_dim: int,
        dict_size: int,
        k: int,
        layer: int,
        lm_name: str,
        group_fractions: list[float],
        lr: float | None = ...,
        warmup_steps: int = ...,
        decay_start: int | None = ...,
        threshold_start_step: int = ...,
        seed: int | None = ...,
        device: str | None = ...,
    ) -> None: ...
