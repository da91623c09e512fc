"""The chat of ``mooring run``: ``session`` is the talk, ``slash`` its commands, ``terminal`` the prompt."""
