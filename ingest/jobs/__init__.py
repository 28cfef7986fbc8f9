"""What is done, as plain async functions that take the minute and their resources as arguments."""
