from torch import Tensor

class Autoencoder:
    threshold: Tensor
    b_dec: Tensor
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> object: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def encode(self, x: Tensor, *, use_threshold: bool = ...) -> Tensor: ...
    def decode(self, x: Tensor) -> Tensor: ...
    def scale_biases(self, scale: float) -> None: ...

class Trainer:
    ae: Autoencoder
    dead_feature_threshold: int
    def update(self, step: int, x: Tensor) -> object: ...

class TopKTrainer(Trainer):
    def __init__(
        self,
        *,
        steps: int,
        activation_dim: int,
        dict_size: int,
        k: int,
        layer: int,
        lm_name: str,
        lr: float | None = ...,
        warmup_steps: int = ...,
        decay_start: int | None = ...,
        threshold_start_step: int = ...,
        seed: int | None = ...,
        device: str | None = ...,
    ) -> None: ...

class BatchTopKTrainer(TopKTrainer): ...

class JumpReluTrainer(Trainer):
    def __init__(
        self,
        *,
        steps: int,
        activation_dim: int,
        dict_size: int,
        layer: int,
        lm_name: str,
        target_l0: float = ...,
        lr: float = ...,
        warmup_steps: int = ...,
        sparsity_warmup_steps: int | None = ...,
        decay_start: int | None = ...,
        seed: int | None = ...,
        device: str = ...,
    ) -> None: ...
