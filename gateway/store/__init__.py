"""All SQL and the farm register. Runs on the writer thread or on short-lived readers."""
