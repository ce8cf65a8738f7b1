"""The command line: a thin skin over `app`, `config` and the store's read side."""
