"""Each step: a file with a number. One that has been released is never changed."""
