"""What people and their editors read about the configuration, derived from the schema."""
