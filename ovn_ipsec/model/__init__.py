"""Plain data that the rooms hand to each other. Imports the standard library's types only."""
