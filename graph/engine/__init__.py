"""How things are answered: what resolvers and REST handlers share above the database."""
