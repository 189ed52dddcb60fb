"""The storage for more than one machine: a MongoDB database, shared by any number of processes."""

from spoolway_providers.mongodb.provider import MongoProvider

__all__ = ["MongoProvider"]
