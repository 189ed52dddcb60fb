"""The example for Node.js, against a real server; run by `make node-test`."""
