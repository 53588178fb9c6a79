"""Models to serve with MODEL=examples.…: put yours here."""
