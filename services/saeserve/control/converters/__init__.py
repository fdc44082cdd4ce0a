"""Between messages of the API and values of the rooms below."""
