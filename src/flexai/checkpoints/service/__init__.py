"""The operations on checkpoints, each a page: push, fetch, export, inspect, delete, undelete, gc, verify, recover."""
