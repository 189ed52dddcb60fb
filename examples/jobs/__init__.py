"""Jobs to submit, and the script that writes them."""
