"""Files that go into tasks as they are."""
