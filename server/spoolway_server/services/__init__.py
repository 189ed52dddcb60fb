"""The gRPC services: they translate, call, and translate."""
