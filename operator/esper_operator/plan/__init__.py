"""Pure functions: a resource and what exists of it, to the objects and the status there should be. No I/O, no clock."""
