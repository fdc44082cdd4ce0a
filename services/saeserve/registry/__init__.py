"""Data sets, models, versions and aliases on the artifact store."""
