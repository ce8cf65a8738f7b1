"""Import and export of readings (S0-005): files in and out of a store, with or without a gateway on it."""
