"""The part of SAELens 6.54 that the benchmarks drive; it ships no strict types."""

from pathlib import Path

from torch import Tensor

class TopKTrainingSAEConfig:
    def __init__(self, *, d_in: int, d_sae: int, k: int, device: str = ...) -> None: ...

class BatchTopKTrainingSAEConfig:
    def __init__(self, *, d_in: int, d_sae: int, k: float, device: str = ...) -> None: ...

class MatryoshkaBatchTopKTrainingSAEConfig:
    def __init__(
        self,
        *,
        d_in: int,
        d_sae: int,
        k: float,
        matryoshka_widths: list[int],
        device: str = ...,
        use_matryoshka_aux_loss: bool = ...,
    ) -> None: ...

class JumpReLUTrainingSAEConfig:
    def __init__(
        self,
        *,
        d_in: int,
        d_sae: int,
        device: str = ...,
        apply_b_dec_to_input: bool = ...,
        jumprelu_sparsity_loss_mode: str = ...,
        jumprelu_init_threshold: float = ...,
        jumprelu_bandwidth: float = ...,
        jumprelu_tanh_scale: float = ...,
        jumprelu_ste_to_input: bool = ...,
        l0_coefficient: float = ...,
        l0_warm_up_steps: int = ...,
        pre_act_loss_coefficient: float | None = ...,
    ) -> None: ...

class TrainingSAE:
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> object: ...
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]: ...

class TopKTrainingSAE(TrainingSAE):
    def __init__(self, cfg: TopKTrainingSAEConfig) -> None: ...

class BatchTopKTrainingSAE(TrainingSAE):
    def __init__(self, cfg: BatchTopKTrainingSAEConfig) -> None: ...

class MatryoshkaBatchTopKTrainingSAE(TrainingSAE):
    def __init__(self, cfg: MatryoshkaBatchTopKTrainingSAEConfig) -> None: ...

class JumpReLUTrainingSAE(TrainingSAE):
    def __init__(self, cfg: JumpReLUTrainingSAEConfig) -> None: ...

class SAE:
    W_dec: Tensor
    @classmethod
    def load_from_disk(cls, path: str | Path, device: str = ...) -> SAE: ...
    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, feature_acts: Tensor) -> Tensor: ...

class SAETrainer:
    n_training_steps: int
    def __init__(self, cfg: object, sae: TrainingSAE, data_provider: object) -> None: ...
    def step(self, batch: Tensor) -> object: ...
