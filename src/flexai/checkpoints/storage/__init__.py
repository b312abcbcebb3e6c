"""Where bytes lie: one small protocol, one module per kind of store, and the managed store on top."""
