"""Small shared pieces, each with a name of its own. Imports nothing from the rest of pyhyve."""
