"""Why a reader gets an article, where the words of a text come from, and what a reader likes."""
