"""What other programs load weights by: modules are imported by name, and need the package of that name only when used."""
