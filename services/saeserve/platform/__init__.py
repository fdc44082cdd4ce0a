"""The chassis every service stands on: settings, servers, errors, metrics, logging, the stores."""
