"""Who calls: tokens, their scopes and owners, and what each call asks for."""
