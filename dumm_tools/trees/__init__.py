"""File trees, layers and archives, of any origin: no guest and no lab is known here."""
