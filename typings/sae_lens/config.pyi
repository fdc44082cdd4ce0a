class SAETrainerConfig:
    def __init__(
        self,
        *,
        total_training_samples: int,
        train_batch_size_samples: int,
        lr: float = ...,
        lr_end: float | None = ...,
        lr_warm_up_steps: int = ...,
        lr_decay_steps: int = ...,
        autocast: bool = ...,
        device: str = ...,
        dead_feature_window: int = ...,
    ) -> None: ...
