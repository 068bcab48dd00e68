"""Studies: what is trained and evaluated to answer a question, and the tables that answer it."""
