"""Engines: software that runs a model, one worker process per model."""
