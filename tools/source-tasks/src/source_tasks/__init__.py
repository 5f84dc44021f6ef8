"""Makes the tasks of one source as Harbor task folders in Parquet, each validated in the sandbox."""
