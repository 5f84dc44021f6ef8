"""Draw tasks from several sources."""
