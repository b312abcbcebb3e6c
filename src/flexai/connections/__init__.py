"""Storage provider connections: what each kind is and how it opens a path, without Prefect, where they are saved."""
