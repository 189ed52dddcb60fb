"""Real load balancers before real server processes; `make lb-test` installs what they need and runs them."""
