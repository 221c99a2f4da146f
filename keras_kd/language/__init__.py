"""Language models at the size of their vocabularies."""
