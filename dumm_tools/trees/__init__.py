"""File trees, layers and archives of any origin; nothing here knows guests or labs."""
