"""Small shared things that know nothing of the rest of the project."""
