"""What several parts of the library share, and users do not need."""
