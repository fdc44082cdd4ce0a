from typing import Any

class ASTSource:
    def __init__(
        self, fn: Any, signature: dict[str, str], constexprs: dict[Any, Any], attrs: Any
    ) -> None: ...
