from torch import Tensor

class SignSGD:
    def __init__(self, params: list[dict[str, object]], lr: float = ...) -> None: ...
