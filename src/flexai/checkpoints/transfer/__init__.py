"""Moving bytes: scan, digest, plan, engine, journal."""
