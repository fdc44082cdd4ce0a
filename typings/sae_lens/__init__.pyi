"""The part of SAELens 6.54 that the benchmarks drive; it ships no strict types."""

from pathlib import Path

from torch import Tensor

class TopKTrainingSAEConfig:
    def __init__(self, *, d_in: int, d_sae: int, k: int) -> None: ...

class BatchTopKTrainingSAEConfig:
    def __init__(self, *, d_in: int, d_sae: int, k: float) -> None: ...

class MatryoshkaBatchTopKTrainingSAEConfig:
    def __init__(
        self,
        *,
        d_in: int,
        d_sae: int,
        k: float,
        matryoshka_widths: list[int],
        use_matryoshka_aux_loss: bool = ...,
    ) -> None: ...

class TrainingSAE:
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]: ...

class TopKTrainingSAE(TrainingSAE):
    def __init__(self, cfg: TopKTrainingSAEConfig) -> None: ...

class BatchTopKTrainingSAE(TrainingSAE):
    def __init__(self, cfg: BatchTopKTrainingSAEConfig) -> None: ...

class MatryoshkaBatchTopKTrainingSAE(TrainingSAE):
    def __init__(self, cfg: MatryoshkaBatchTopKTrainingSAEConfig) -> None: ...

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
