"""What a step on a GPU does, counted from shapes on any machine, against a table of budgets."""
