"""What a recipe built, as a table, a page and a summary."""
