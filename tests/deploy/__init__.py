"""The files of deploy/: what they say is true, and their own programs accept them."""
