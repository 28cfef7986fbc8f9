"""History from elsewhere: what files and foreign tables say, and which of it can be a price. Without the database."""
