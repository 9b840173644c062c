"""The migrations, each in a file with a number. A released migration is never changed."""
